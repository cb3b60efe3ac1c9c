"""Software Vulkan drivers in the user's cache: fetched with apt, used without root.

`fetch` downloads Debian packages, unpacks them beside the system and keeps the driver,
the libraries that this machine lacks, and an ICD file. `activate` makes such a driver
usable in this process; it must run before wgpu is imported.

Environment: PORTANET_SOFTWARE_DRIVER forces `lavapipe`, `swiftshader` or `none`;
PORTANET_CACHE replaces the cache folder (`$XDG_CACHE_HOME/portanet`).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, NamedTuple


class DriverError(RuntimeError):
    """A software driver could not be fetched or loaded; the text says what to do."""


class _Driver(NamedTuple):
    package: str
    library: str  # file name inside the package
    api_version: str  # what the ICD file tells the loader; at least 1.1 is enough
    with_dependencies: bool  # SwiftShader needs nothing of what chromium needs


# In order of preference. Mesa's driver is the faster; SwiftShader is the stricter.
DRIVERS = {
    "lavapipe": _Driver("mesa-vulkan-drivers", "libvulkan_lvp.so", "1.3.0", True),
    "swiftshader": _Driver("chromium-common", "libvk_swiftshader.so", "1.1.0", False),
}
LOADER = "libvulkan.so.1"
LOADER_PACKAGE = "libvulkan1"

# Mesa before 24 is about five times slower and lacks f16: prefer backports to it.
OLDEST_GOOD_MESA = 24

_active: str | None = None


# ------------------------------------------------------------------ what is there


def cache_root() -> Path:
    """The folder of all that is kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    own = os.environ.get("PORTANET_CACHE") or Path(base, "portanet")
    return Path(own).expanduser().absolute()


def cache_dir() -> Path:
    """The folder that holds one folder per unpacked driver."""
    return cache_root() / "drivers"


def installed(root: Path | None = None) -> list[str]:
    """Names of the drivers unpacked in the cache, the preferred one first."""
    root = root or cache_dir()
    return [name for name in DRIVERS if _manifest(root / name)]


def system_icds() -> list[Path]:
    """ICD files of the Vulkan drivers that the system itself offers."""
    etc = os.environ.get("XDG_CONFIG_DIRS") or "/etc/xdg"
    data = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    home = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    roots = [*etc.split(":"), "/etc", home, *data.split(":")]
    found = []
    for root in roots:
        found += sorted(Path(root).expanduser().glob("vulkan/icd.d/*.json"))
    return list(dict.fromkeys(found))


def has_system_loader() -> bool:
    """Whether the dynamic linker finds libvulkan without our help."""
    import ctypes

    try:
        ctypes.CDLL(LOADER)
    except OSError:
        return False
    return True


def _manifest(folder: Path) -> dict[str, Any] | None:
    """What `fetch` wrote about an unpacked driver; None if it is not whole."""
    import json

    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        files = [manifest["library"], manifest["loader"], *manifest["preload"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    whole = (folder / "icd.json").is_file() and all(
        (folder / "lib" / file).is_file() for file in files
    )
    return manifest if whole else None


# ------------------------------------------------------------------------ use one


def activate(name: str | None = None) -> bool:
    """Make an unpacked driver usable in this process; True if one is in use.

    Without `name` and PORTANET_SOFTWARE_DRIVER, only a machine that has no Vulkan
    driver of its own gets one, and only one that is unpacked already. Raises
    DriverError when a driver that was asked for cannot be used.
    """
    global _active
    asked = name or os.environ.get("PORTANET_SOFTWARE_DRIVER") or None
    if asked == "none":
        return False
    if asked is not None and asked not in DRIVERS:
        raise DriverError(
            f"drivers: no software driver {asked!r}; "
            f"PORTANET_SOFTWARE_DRIVER is one of {', '.join(DRIVERS)}, none"
        )
    if _active is not None and asked in (None, _active):
        return True
    chosen = asked or _unasked_choice()
    if chosen is None:
        return False
    _check_usable(chosen)
    _load(chosen, alone=asked is not None)
    _active = chosen
    return True


def _unasked_choice() -> str | None:
    """The driver for a machine without one; None where the user's or system's rules."""
    if not sys.platform.startswith("linux") or "wgpu" in sys.modules:
        return None
    there = installed()
    named = os.environ.get("VK_DRIVER_FILES") or os.environ.get("VK_ICD_FILENAMES")
    if named:  # set by the user, or by us in a parent process
        icds = {str(cache_dir() / name / "icd.json"): name for name in there}
        return next((icds[p] for p in named.split(":") if p in icds), None)
    if not there or (system_icds() and has_system_loader()):
        return None
    return there[0]


def _cure(name: str) -> str:
    return f"run `portanet doctor --fix {name}`"


def _check_usable(name: str) -> None:
    if not sys.platform.startswith("linux"):
        raise DriverError(
            f"drivers: {name} is fetched from Debian packages and {sys.platform} cannot "
            "load them; unset PORTANET_SOFTWARE_DRIVER to use the system's own driver"
        )
    if _active is not None:
        raise DriverError(
            f"drivers: {_active} is in use, {name} cannot replace it; start a new process"
        )
    if "wgpu" in sys.modules:
        raise DriverError(
            f"drivers: wgpu is imported already, {name} comes too late; "
            "set PORTANET_SOFTWARE_DRIVER before the program starts"
        )
    if name not in installed():
        raise DriverError(f"drivers: {name} is not in {cache_dir()}; {_cure(name)}")


def _load(name: str, alone: bool) -> None:
    """Point the Vulkan loader at the driver and load the libraries that it needs."""
    import ctypes

    folder = cache_dir() / name
    manifest = _manifest(folder) or {}
    files = list(manifest["preload"])
    if not has_system_loader():
        files.append(manifest["loader"])
    for file in [*files, manifest["library"]]:
        try:
            # The dynamic linker takes a library that is loaded already for any
            # later request of the same name, so no search path has to be set.
            ctypes.CDLL(str(folder / "lib" / file))
        except OSError as e:
            raise DriverError(
                f"drivers: {name} does not load: {e}; delete {folder} and {_cure(name)}"
            ) from e
    ours = str(folder / "icd.json")
    icds = [ours] if alone else [*map(str, system_icds()), ours]
    os.environ["VK_DRIVER_FILES"] = ":".join(icds)
    os.environ["VK_ICD_FILENAMES"] = ":".join(icds)  # loaders before 1.3.207
    if not os.environ.get("XDG_RUNTIME_DIR"):
        runtime = cache_dir() / "run"
        runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.environ["XDG_RUNTIME_DIR"] = str(runtime)


# ---------------------------------------------------------------------- fetch one


def fetch(name: str = "lavapipe", into: Path | None = None) -> Path:
    """Download and unpack a driver; the path of its ICD file.

    The driver goes to `into/name` (default: the cache). Nothing is done if it is there
    and its libraries are found. The system's packages and settings are left alone.
    Raises DriverError where apt, its mirror or the package is missing.
    """
    import tempfile

    if name not in DRIVERS:
        raise DriverError(
            f"drivers: no software driver {name!r}; one of {', '.join(DRIVERS)}"
        )
    root = (into or cache_dir()).absolute()
    final = root / name
    if _manifest(final) and not _missing(final / "lib" / DRIVERS[name].library):
        return final / "icd.json"
    _require_apt()
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=root) as scratch:
        packages = _download(DRIVERS[name], Path(scratch))
        _unpack(Path(scratch))
        _assemble(name, Path(scratch), final, packages)
        _replace(final, Path(scratch))
    return final / "icd.json"


def _require_apt() -> None:
    import shutil

    missing = [t for t in ("apt-get", "dpkg-deb", "ldd") if not shutil.which(t)]
    if not sys.platform.startswith("linux") or missing:
        raise DriverError(
            "drivers: software drivers are fetched with apt, which this system lacks "
            f"(no {', '.join(missing) or 'Linux'}); install a Vulkan driver with the "
            "system's own package manager (for instance Mesa's lavapipe)"
        )


def _run(*command: str, cwd: Path | None = None) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a command."""
    import subprocess

    env = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command,
            check=False,
            cwd=cwd,
            env=env,
            capture_output=True,
            text=True,
            timeout=900,
        )
    except subprocess.TimeoutExpired as e:
        raise DriverError(
            f"drivers: {command[0]} took over {e.timeout:.0f} s; "
            "check the network and try again"
        ) from e
    return done.returncode, done.stdout, done.stderr


def _os_release() -> dict[str, str]:
    import shlex

    try:
        text = Path("/etc/os-release").read_text()
    except OSError:
        return {}
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {key: "".join(shlex.split(value)) for key, value in pairs}


def _sources(uris: str, codename: str) -> list[str]:
    """Lines of a sources.list: the system's suites of `codename`, and its backports.

    uris: what `apt-get update --print-uris` prints; the mirror is in there, whether or
    not the system has its package lists.
    """
    import re

    found: dict[tuple[str, str], dict[str, None]] = {}
    index = r"'(\S+?)/+dists/([^/\s']+)/([^/\s']+)/binary-[^/]+/Packages"
    for mirror, suite, component in re.findall(index, uris):
        if suite == codename or suite.startswith(f"{codename}-"):
            found.setdefault((mirror, suite), {})[component] = None
    base = next(((m, s) for m, s in found if s == codename), None)
    if base:
        backports = (base[0], f"{codename}-backports")
        found.setdefault(backports, found[base])
    return [f"{m} {s} {' '.join(components)}" for (m, s), components in found.items()]


def _apt_options(scratch: Path) -> list[str]:
    """Options that give apt its own lists and sources and leave the system's alone."""
    release = _os_release()
    ubuntu = release.get("UBUNTU_CODENAME")
    codename = ubuntu or release.get("VERSION_CODENAME", "")
    _, uris, stderr = _run("apt-get", "update", "--print-uris")
    lines = _sources(uris, codename)
    if not lines:
        raise DriverError(
            f"drivers: apt has no sources for {codename or 'this system'}; add its "
            f"distribution's mirror to /etc/apt/sources.list ({stderr.strip()[-200:]})"
        )
    keyring = Path("/usr/share/keyrings") / (
        "ubuntu-archive-keyring.gpg" if ubuntu else "debian-archive-keyring.gpg"
    )
    signed = f"[signed-by={keyring}] " if keyring.is_file() else ""
    for folder in ("lists/partial", "cache/archives/partial", "parts", "debs"):
        (scratch / "apt" / folder).mkdir(parents=True)
    sources = scratch / "apt" / "sources.list"
    sources.write_text("".join(f"deb {signed}{line}\n" for line in lines))
    settings = {
        "Dir::State::Lists": scratch / "apt" / "lists",
        "Dir::Cache": scratch / "apt" / "cache",
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": scratch / "apt" / "parts",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "APT::Sandbox::User": "root",  # the folder is ours; _apt cannot enter it
        "Debug::NoLocking": "1",
    }
    return [
        part for key, value in settings.items() for part in ("-o", f"{key}={value}")
    ]


def _download(driver: _Driver, scratch: Path) -> dict[str, str]:
    """Fetch the packages that this machine lacks; their names and versions."""
    options = _apt_options(scratch)
    _, _, update_errors = _run("apt-get", *options, "update")
    own = _candidate(options, driver.package)
    if own is None:
        raise DriverError(
            f"drivers: apt cannot offer {driver.package}: "
            f"{_first_error(update_errors) or 'no such package in its sources'}; "
            "check the network and the sources of apt"
        )
    if driver.with_dependencies:
        packages = _closure(options, driver.package, own)
    else:
        packages = {driver.package: own}
    if LOADER_PACKAGE not in packages and (v := _candidate(options, LOADER_PACKAGE)):
        packages[LOADER_PACKAGE] = v
    wanted = [f"{package}={version}" for package, version in packages.items()]
    debs = scratch / "apt" / "debs"
    status, _, errors = _run("apt-get", *options, "download", *wanted, cwd=debs)
    if status:
        raise DriverError(
            f"drivers: apt-get download failed: {_first_error(errors)}; "
            "check the network and the free space, then try again"
        )
    return packages


def _candidate(options: list[str], package: str) -> str | None:
    """The version that apt would take, or None."""
    _, text, _ = _run("apt-cache", *options, "policy", package)
    for line in text.splitlines():
        if line.strip().startswith("Candidate:"):
            version = line.split(":", 1)[1].strip()
            return None if version == "(none)" else version
    return None


def _closure(options: list[str], package: str, own: str) -> dict[str, str]:
    """What apt would install for `package`: names and versions, from backports if old."""
    import re

    wishes = [package]
    if int(re.sub(r"^\d+:", "", own).split(".")[0]) < OLDEST_GOOD_MESA:
        release = _os_release()
        codename = release.get("UBUNTU_CODENAME") or release["VERSION_CODENAME"]
        wishes.insert(0, f"{package}/{codename}-backports")
    errors = ""
    for wish in wishes:
        status, plan, errors = _run(
            "apt-get", *options, "install", "--simulate", "--reinstall",
            "--no-install-recommends", wish, LOADER_PACKAGE,
        )  # fmt: skip
        if status == 0:
            return dict(
                re.findall(r"^Inst (\S+?)(?::\S+)? .*?\((\S+) ", plan, re.MULTILINE)
            )
    raise DriverError(
        f"drivers: apt cannot resolve {package}: {_first_error(errors)}; "
        "repair the system's packages with `apt-get -f install`, then try again"
    )


def _first_error(text: str) -> str:
    """The most telling line of apt's messages."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    starts = ("E:", "W: Failed", "")
    told = (line for start in starts for line in lines if line.startswith(start))
    return next(told, "").rstrip(".;")


# ------------------------------------------------------------------------- unpack


def _unpack(scratch: Path) -> None:
    for deb in sorted((scratch / "apt" / "debs").glob("*.deb")):
        status, _, errors = _run("dpkg-deb", "-x", str(deb), str(scratch / "tree"))
        if status:
            raise DriverError(
                f"drivers: {deb.name} does not unpack: {errors.strip()}; "
                "check the free space, then try again"
            )


def _ldd(library: Path, search: str = "") -> dict[str, str | None]:
    """Each shared library that `library` needs, and where the linker finds it."""
    import re

    before = os.environ.get("LD_LIBRARY_PATH")
    path = ":".join(filter(None, [search, before]))
    _, text, _ = _run("env", f"LD_LIBRARY_PATH={path}", "ldd", str(library))
    pairs = re.findall(r"^\s*(\S+) => (not found|/\S+)", text, re.MULTILINE)
    return {name: None if at == "not found" else at for name, at in pairs}


def _missing(library: Path) -> list[str]:
    """Libraries that neither the system nor the driver's own folder has."""
    return [name for name, at in _ldd(library, str(library.parent)).items() if not at]


def _assemble(name: str, scratch: Path, final: Path, packages: dict[str, str]) -> None:
    """Copy the driver and what it needs from the tree into `scratch/driver`."""
    import json
    import shutil

    driver, tree, out = DRIVERS[name], scratch / "tree", scratch / "driver"
    (out / "lib").mkdir(parents=True)
    library = next(tree.rglob(driver.library), None)
    loader = next((p for p in tree.rglob(LOADER) if "linux-gnu" in str(p.parent)), None)
    if library is None or loader is None:
        raise DriverError(
            f"drivers: {', '.join(packages)} hold no {driver.library} or no {LOADER}; "
            "this distribution packs it differently, install a Vulkan driver with it"
        )
    search = ":".join({str(p.parent) for p in tree.glob("**/*-linux-gnu*/*.so*")})
    needed = {**_ldd(library, search), **_ldd(loader, search)}
    if lost := [soname for soname, at in needed.items() if at is None]:
        raise DriverError(
            f"drivers: {name} needs {', '.join(lost)}, which no package brought; "
            "install a Vulkan driver with the system's package manager"
        )
    ours = {s: Path(at) for s, at in needed.items() if at and at.startswith(str(tree))}
    # A library comes after those it needs: its set of dependencies contains theirs.
    preload = sorted(ours, key=lambda soname: len(_ldd(ours[soname], search)))
    for soname, source in {**ours, driver.library: library, LOADER: loader}.items():
        shutil.copyfile(source, out / "lib" / soname)
    for text in tree.glob("usr/share/doc/*/copyright"):
        (out / "licenses").mkdir(exist_ok=True)
        shutil.copyfile(text, out / "licenses" / text.parent.name)
    manifest = {
        "library": driver.library,
        "loader": LOADER,
        "preload": preload,
        "packages": packages,
    }
    icd = {
        "file_format_version": "1.0.0",
        "ICD": {
            "library_path": str(final / "lib" / driver.library),
            "api_version": driver.api_version,
        },
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    (out / "icd.json").write_text(json.dumps(icd, indent=2) + "\n")


def _replace(final: Path, scratch: Path) -> None:
    """Rename the finished folder into place; an older one moves out of the way."""
    try:
        if final.exists():
            final.rename(scratch / "old")
        (scratch / "driver").rename(final)
    except OSError as e:
        if not _manifest(final):  # else another process was faster
            raise DriverError(
                f"drivers: cannot write {final}: {e}; set PORTANET_CACHE to a folder "
                "that can be written"
            ) from e
