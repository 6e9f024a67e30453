"""`python -m src`: lists the commands, without importing them."""

import re
from pathlib import Path


def main() -> None:
    """Print the name of every command and the first line of its docstring."""
    print("Cat Faces: train, evaluate and understand generative models of cat faces.\n")
    for file in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        if command := re.match(r'"""`(python -m src\.\w+).*`: (\w.*?)(""")?\n', file.read_text()):
            print(f"  {command[1]:27}{command[2]}")
    print("\nEach has --help, which shows its options and examples.")


if __name__ == "__main__":
    main()
