# Needs Python 3.11 to 3.13 with pip, and the package registry; everything else is installed in .venv/.
.DEFAULT_GOAL := help
PYTHON ?= $(shell for p in python3.12 python3.13 python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin

.PHONY: help
help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

# uv itself is pinned in the lock too; pip checks its hash, then uv installs the rest in half a minute.
.venv/.ready: requirements.lock
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11, 3.12 or 3.13 found; give one as make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv --clear --without-pip .venv
	sed -n '/^uv==/,/^ *# via/p' requirements.lock | grep -v '# via' > .venv/uv.txt
	$(PYTHON) -m pip --python $(BIN)/python install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.txt
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	@touch $@

.PHONY: setup
setup: .venv/.ready  ## install everything into .venv/ (both commands below do it themselves)

.PHONY: train
train: .venv/.ready  ## the quickstart: a VAE on drawn cats, two to five minutes on a CPU
	@$(BIN)/python -m src.train experiment=quickstart

.PHONY: story
story: .venv/.ready  ## autoencoder, VAE and GAN compared on one page: outputs/story/index.html
	@$(BIN)/python -m src.story

.PHONY: pretrained
pretrained: .venv/.ready  ## the model in pretrained/drawn_cats, a quarter of an hour of a core
	@$(BIN)/python -m src.train experiment=vae_gan_drawn_cats run_dir=outputs/pretrained
	@$(BIN)/python -m src.export checkpoint=outputs/pretrained output=pretrained/drawn_cats onnx=false

.PHONY: test
test: .venv/.ready  ## the tests, three to five minutes on two cores
	@$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

.PHONY: test-all
test-all: .venv/.ready  ## the slow tests too, half an hour to an hour on two cores
	@$(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: check
check: .venv/.ready  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

.PHONY: format
format: .venv/.ready  ## put the code into its format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: bench
bench: .venv/.ready  ## what src.train costs over a bare PyTorch loop; data against torchvision's ImageFolder
	@$(BIN)/python -m benchmarks.data
	@$(BIN)/python -m benchmarks.overhead

.PHONY: bench-gpu
bench-gpu: .venv/.ready  ## the GAN recipes and every speed switch on one CUDA card, under ten minutes; ARGS="data=..."
	@$(BIN)/python -m benchmarks.gpu $(ARGS)

.PHONY: bench-peers
bench-peers: .venv/.ready  ## gan_cpu and the VAEs against DCGAN and pythae at equal processor seconds; ARGS="--images ..."
	@$(BIN)/python -m benchmarks.peers $(ARGS)

.PHONY: lock
lock: .venv/.ready  ## pin the newest dependencies, with hashes
	$(BIN)/uv pip compile --quiet --upgrade --universal --generate-hashes --python-version 3.11 --no-emit-index-url \
		--custom-compile-command "make lock" pyproject.toml --group dev -o requirements.lock

.PHONY: clean
clean:  ## remove the environment and caches; runs in outputs/ stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
