"""How far generated images are from real ones: a feature network, then distances between feature statistics.

A metric's name says its network, and numbers of different networks never share a name:

    fid, kid              InceptionV3: the 2015-12-05 FID weights, 2048 features (download or `weights_path`)
    fd_lite0, kd_lite0    EfficientNetLite0: ImageNet weights from the package registry, 1280 features

    features      the networks: uint8 images -> features
    frechet       Frechet distance of two Gaussians
    kernel        kernel distance (squared maximum mean discrepancy) of two samples
    diversity     how much images differ from each other
    neighbours    nearest images
    generation    one network and several distances, over batches of images and over all ranks
    cache         statistics of the real images, kept on disk
"""
