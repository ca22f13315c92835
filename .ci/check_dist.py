"""Build the sdist and from it the wheel, check what both hold, and use the wheel in a new environment."""

import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAX_WHEEL_BYTES = 14_000_000
IN_SDIST = ("tumorsim", "benchmarks", "docs", "examples", "tests")
NEEDED = ("tumorsim/py.typed", "tumorsim/data/weights/registry.json", "tumorsim/templates/answer.html.j2")

# Imports every module and resolves every public name of each.
IMPORT_ALL = """
import importlib, pkgutil, sys, tumorsim
assert tumorsim.__file__.startswith(sys.prefix), tumorsim.__file__
for module in pkgutil.walk_packages(tumorsim.__path__, "tumorsim."):
    if not module.name.endswith("__main__"):
        loaded = importlib.import_module(module.name)
        for name in getattr(loaded, "__all__", ()):
            getattr(loaded, name)
"""


def main():
    """Run all checks; raises where one fails."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        run(sys.executable, "-m", "build", "--outdir", folder, ROOT)
        (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
        check_wheel(wheel)
        check_sdist(sdist)
        use(wheel, folder)
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB, {sdist.name}: both are complete.")


def check_wheel(wheel):
    """Raise unless the wheel is small and holds the package, all of it, and nothing else."""
    size = wheel.stat().st_size
    if size > MAX_WHEEL_BYTES:
        sys.exit(f"The wheel must have at most {MAX_WHEEL_BYTES} bytes. Got {size}.")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not re.match(r"tumorsim-[^/]*\.dist-info/", name)}
    compare("wheel", names, tracked("tumorsim"))
    if missing := set(NEEDED) - names:
        sys.exit(f"The wheel must hold {', '.join(sorted(missing))}.")
    if not any(name.endswith(".safetensors") for name in names):
        sys.exit("The wheel must hold weights.")


def check_sdist(sdist):
    """Raise unless the sdist holds the folders of `IN_SDIST`, all of them."""
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    compare("sdist", {name for name in names if name.startswith(IN_SDIST)}, tracked(*IN_SDIST))


def use(wheel, folder):
    """Install the wheel without its dependencies, which this interpreter has, import all of it and run it."""
    environment = folder / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    python, command = environment / "bin" / "python", environment / "bin" / "tumorsim"
    options = ["--quiet", "--no-deps", "--no-index"]
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel)
    (packages,) = environment.glob("**/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    run(python, "-c", IMPORT_ALL, cwd=folder)
    run(command, "--version", cwd=folder)
    run(command, "weights", "verify", cwd=folder)


def tracked(*folders):
    """Return the paths of the files in these folders that git knows, with slashes, from the root."""
    done = subprocess.run(
        ["git", "ls-files", "-z", "--", *folders], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return {name for name in done.stdout.split("\0") if name}


def compare(what, found, expected):
    """Exit with the names that are missing or too many."""
    if found != expected:
        missing, more = sorted(expected - found), sorted(found - expected)
        sys.exit(f"The {what} must hold the files that git tracks. It lacks {missing}, and has {more}.")


def run(*command, cwd=ROOT):
    """Run a command; raises if it fails."""
    subprocess.run([str(word) for word in command], cwd=cwd, check=True)


if __name__ == "__main__":
    main()
