"""Software drivers: what is found, chosen and refused, without a network."""

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from portanet import drivers

VARIABLES = (
    "PORTANET_SOFTWARE_DRIVER",
    "PORTANET_CACHE",
    "VK_DRIVER_FILES",
    "VK_ICD_FILENAMES",
)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache in an environment that says nothing of drivers, before wgpu."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PORTANET_CACHE", str(tmp_path))
    monkeypatch.setattr(drivers, "_active", None)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delitem(sys.modules, "wgpu", raising=False)
    monkeypatch.setattr(drivers, "system_icds", list)
    monkeypatch.setattr(drivers, "has_system_loader", lambda: False)
    return tmp_path / "drivers"


@pytest.fixture
def loaded(monkeypatch):
    """Names of the drivers that `activate` would load, in order."""
    names = []
    monkeypatch.setattr(drivers, "_load", lambda name, alone: names.append(name))
    return names


def unpack(root, name):
    """A folder as `fetch` leaves it, with empty libraries."""
    folder = root / name
    (folder / "lib").mkdir(parents=True)
    library = drivers.DRIVERS[name].library
    for file in (library, drivers.LOADER, "libLLVM.so.1"):
        (folder / "lib" / file).touch()
    manifest = {
        "library": library,
        "loader": drivers.LOADER,
        "preload": ["libLLVM.so.1"],
        "packages": {"some": "1.0"},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "icd.json").write_text("{}")
    return folder


# ------------------------------------------------------------------- what is there


def test_cache_is_the_users_and_can_be_moved(monkeypatch, tmp_path):
    monkeypatch.delenv("PORTANET_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert drivers.cache_dir() == tmp_path / "xdg" / "portanet" / "drivers"
    monkeypatch.setenv("PORTANET_CACHE", str(tmp_path / "own"))
    assert drivers.cache_dir() == tmp_path / "own" / "drivers"


def test_an_empty_cache_has_no_driver(cache):
    assert drivers.installed() == []


def test_unpacked_drivers_are_listed_with_lavapipe_first(cache):
    unpack(cache, "swiftshader")
    unpack(cache, "lavapipe")
    assert drivers.installed() == ["lavapipe", "swiftshader"]


@pytest.mark.parametrize("lost", ["icd.json", "manifest.json", "lib/libLLVM.so.1"])
def test_a_driver_that_lost_a_file_is_not_installed(cache, lost):
    (unpack(cache, "lavapipe") / lost).unlink()
    assert drivers.installed() == []


def test_a_damaged_manifest_is_not_installed(cache):
    (unpack(cache, "lavapipe") / "manifest.json").write_text('{"library": ')
    assert drivers.installed() == []


def test_system_icds_are_found_in_the_data_folders(monkeypatch, tmp_path):
    icd = tmp_path / "vulkan" / "icd.d" / "some_icd.json"
    icd.parent.mkdir(parents=True)
    icd.touch()
    monkeypatch.setenv("XDG_DATA_DIRS", str(tmp_path))
    assert icd in drivers.system_icds()


# ----------------------------------------------------------------------- choosing


def test_nothing_is_activated_where_nothing_is_unpacked(cache, loaded):
    assert drivers.activate() is False
    assert loaded == []


def test_the_preferred_driver_is_activated_once(cache, loaded):
    unpack(cache, "lavapipe")
    assert drivers.activate() is True
    assert drivers.activate() is True
    assert loaded == ["lavapipe"]


def test_a_system_with_a_driver_keeps_it(cache, loaded, monkeypatch):
    unpack(cache, "lavapipe")
    monkeypatch.setattr(drivers, "system_icds", lambda: ["/usr/x.json"])
    monkeypatch.setattr(drivers, "has_system_loader", lambda: True)
    assert drivers.activate() is False


def test_the_users_own_icd_is_kept(cache, loaded, monkeypatch):
    unpack(cache, "lavapipe")
    monkeypatch.setenv("VK_DRIVER_FILES", "/somewhere/icd.json")
    assert drivers.activate() is False


def test_a_child_process_loads_what_its_parent_chose(cache, loaded, monkeypatch):
    unpack(cache, "lavapipe")
    folder = unpack(cache, "swiftshader")
    monkeypatch.setenv("VK_DRIVER_FILES", str(folder / "icd.json"))
    assert drivers.activate() is True
    assert loaded == ["swiftshader"]


def test_the_environment_forces_a_driver(cache, loaded, monkeypatch):
    unpack(cache, "lavapipe")
    unpack(cache, "swiftshader")
    monkeypatch.setenv("PORTANET_SOFTWARE_DRIVER", "swiftshader")
    monkeypatch.setattr(drivers, "system_icds", lambda: ["/usr/x.json"])
    assert drivers.activate() is True
    assert loaded == ["swiftshader"]


def test_the_environment_forbids_a_driver(cache, loaded, monkeypatch):
    unpack(cache, "lavapipe")
    monkeypatch.setenv("PORTANET_SOFTWARE_DRIVER", "none")
    assert drivers.activate() is False
    assert loaded == []


def test_no_driver_is_chosen_unasked_after_wgpu_was_imported(
    cache, loaded, monkeypatch
):
    unpack(cache, "lavapipe")
    monkeypatch.setitem(sys.modules, "wgpu", object())
    assert drivers.activate() is False


# ------------------------------------------------------------------------ loading


@pytest.fixture
def opened(monkeypatch):
    """File names that the dynamic linker is asked for, in order."""
    files = []
    monkeypatch.setattr(ctypes, "CDLL", lambda path: files.append(Path(path).name))
    for name in ("VK_DRIVER_FILES", "VK_ICD_FILENAMES", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, "")  # so that the test's end takes ours away
    return files


def test_a_driver_is_loaded_after_all_that_it_needs(cache, opened):
    unpack(cache, "lavapipe")
    assert drivers.activate("lavapipe") is True
    assert opened == ["libLLVM.so.1", drivers.LOADER, "libvulkan_lvp.so"]


def test_the_systems_own_loader_is_used_where_there_is_one(cache, opened, monkeypatch):
    unpack(cache, "lavapipe")
    monkeypatch.setattr(drivers, "has_system_loader", lambda: True)
    drivers.activate("lavapipe")
    assert drivers.LOADER not in opened


def test_the_loader_is_pointed_at_the_driver(cache, opened):
    folder = unpack(cache, "lavapipe")
    drivers.activate()
    assert os.environ["VK_DRIVER_FILES"] == str(folder / "icd.json")
    assert os.environ["VK_ICD_FILENAMES"] == str(folder / "icd.json")
    assert Path(os.environ["XDG_RUNTIME_DIR"]).is_dir()


def test_a_gpu_whose_loader_was_missing_comes_first(cache, opened, monkeypatch):
    folder = unpack(cache, "lavapipe")
    monkeypatch.setattr(drivers, "system_icds", lambda: [Path("/usr/nvidia.json")])
    drivers.activate()
    listed = os.environ["VK_DRIVER_FILES"]
    assert listed == f"/usr/nvidia.json:{folder / 'icd.json'}"


def test_a_forced_driver_stands_alone(cache, opened, monkeypatch):
    folder = unpack(cache, "lavapipe")
    monkeypatch.setattr(drivers, "system_icds", lambda: [Path("/usr/nvidia.json")])
    drivers.activate("lavapipe")
    assert os.environ["VK_DRIVER_FILES"] == str(folder / "icd.json")


# ----------------------------------------------------------------------- refusing


def test_an_unknown_driver_is_refused_with_the_known_ones(cache, monkeypatch):
    monkeypatch.setenv("PORTANET_SOFTWARE_DRIVER", "swrast")
    with pytest.raises(drivers.DriverError, match="lavapipe, swiftshader, none"):
        drivers.activate()
    with pytest.raises(drivers.DriverError, match="lavapipe, swiftshader"):
        drivers.fetch("swrast")


def test_a_forced_driver_that_is_absent_says_how_to_get_it(cache):
    with pytest.raises(drivers.DriverError, match="doctor --fix swiftshader"):
        drivers.activate("swiftshader")


def test_a_forced_driver_after_wgpu_was_imported_is_refused(cache, monkeypatch):
    unpack(cache, "lavapipe")
    monkeypatch.setitem(sys.modules, "wgpu", object())
    with pytest.raises(drivers.DriverError, match="imported already"):
        drivers.activate("lavapipe")


def test_a_second_driver_in_one_process_is_refused(cache, loaded):
    unpack(cache, "lavapipe")
    unpack(cache, "swiftshader")
    drivers.activate("lavapipe")
    with pytest.raises(drivers.DriverError, match="new process"):
        drivers.activate("swiftshader")


def test_a_system_that_cannot_load_them_says_so(cache, monkeypatch):
    unpack(cache, "lavapipe")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert drivers.activate() is False
    with pytest.raises(drivers.DriverError, match="darwin"):
        drivers.activate("lavapipe")


def test_a_broken_library_names_the_folder_to_delete(cache):
    folder = unpack(cache, "lavapipe")
    with pytest.raises(drivers.DriverError, match=f"delete {folder}"):
        drivers.activate("lavapipe")
    assert drivers._active is None


def test_fetch_without_apt_says_what_is_missing(cache, monkeypatch):
    monkeypatch.setenv("PATH", str(cache))
    with pytest.raises(drivers.DriverError, match="apt-get"):
        drivers.fetch("lavapipe")


def test_fetch_of_a_driver_that_is_there_does_nothing(cache, monkeypatch):
    folder = unpack(cache, "lavapipe")
    monkeypatch.setattr(drivers, "_missing", lambda library: [])
    monkeypatch.setattr(drivers, "_require_apt", lambda: pytest.fail("fetched"))
    assert drivers.fetch("lavapipe") == folder / "icd.json"


# -------------------------------------------------------------- fetching, in parts

MIRROR = "http://mirror.invalid/debian"
URIS = "\n".join(
    f"'{uri}' some_file 0 "
    for uri in (
        f"{MIRROR}/dists/bookworm/InRelease",
        f"{MIRROR}/dists/bookworm/main/binary-amd64/Packages.xz",
        f"{MIRROR}/dists/bookworm/contrib/binary-amd64/Packages.xz",
        f"{MIRROR}-security/dists/bookworm-security/main/binary-amd64/Packages.xz",
        "http://other.invalid/dists/nodistro/main/binary-amd64/Packages.xz",
    )
)


def test_backports_are_taken_from_the_systems_own_mirror():
    assert drivers._sources(URIS, "bookworm") == [
        f"{MIRROR} bookworm main contrib",
        f"{MIRROR}-security bookworm-security main",
        f"{MIRROR} bookworm-backports main contrib",
    ]


def test_a_system_without_its_distributions_mirror_has_no_sources():
    assert drivers._sources(URIS, "trixie") == []


def fake_apt(monkeypatch, own, answers):
    """apt that offers version `own` and answers `install --simulate` in turn."""
    calls = []

    def run(*command, cwd=None):
        calls.append(command)
        if "policy" in command:
            return 0, f"  Candidate: {own}\n", ""
        return answers.pop(0)

    monkeypatch.setattr(drivers, "_run", run)
    monkeypatch.setattr(
        drivers, "_os_release", lambda: {"VERSION_CODENAME": "bookworm"}
    )
    return calls


PLAN = """NOTE: This is only a simulation!
Inst libdrm2 [2.4.114-1+b1] (2.4.123-1~bpo12+1 Debian Backports [amd64])
Inst libllvm15:amd64 (1:15.0.6-4+b1 Debian:12.15/oldstable [amd64])
Conf libdrm2 (2.4.123-1~bpo12+1 Debian Backports [amd64])
"""


def test_old_mesa_comes_from_backports(monkeypatch):
    calls = fake_apt(monkeypatch, "22.3.6-1", [(0, PLAN, "")])
    packages = drivers._closure([], "mesa-vulkan-drivers", "22.3.6-1")
    assert packages == {"libdrm2": "2.4.123-1~bpo12+1", "libllvm15": "1:15.0.6-4+b1"}
    assert "mesa-vulkan-drivers/bookworm-backports" in calls[0]


def test_mesa_of_the_distribution_stands_in_for_backports(monkeypatch):
    refused = (100, "", "E: Release 'bookworm-backports' was not found")
    calls = fake_apt(monkeypatch, "22.3.6-1", [refused, (0, PLAN, "")])
    assert drivers._closure([], "mesa-vulkan-drivers", "22.3.6-1")
    assert "mesa-vulkan-drivers" in calls[1]


def test_new_mesa_comes_from_the_distribution(monkeypatch):
    calls = fake_apt(monkeypatch, "25.0.7-2", [(0, PLAN, "")])
    assert drivers._closure([], "mesa-vulkan-drivers", "25.0.7-2")
    assert len(calls) == 1
    assert "mesa-vulkan-drivers" in calls[0]


def test_a_package_that_apt_lacks_is_an_error_with_apts_words(monkeypatch, tmp_path):
    monkeypatch.setattr(drivers, "_apt_options", lambda scratch: [])
    words = "W: first\nE: Could not resolve the mirror\nW: last"
    monkeypatch.setattr(drivers, "_run", lambda *c, cwd=None: (100, "", words))
    with pytest.raises(drivers.DriverError, match="Could not resolve the mirror"):
        drivers._download(drivers.DRIVERS["lavapipe"], tmp_path)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("W: a\nE: b.\nE: c", "E: b"),
        ("W: a\nW: Failed to fetch d\nW: e", "W: Failed to fetch d"),
        ("\nsomething\n", "something"),
        ("", ""),
    ],
)
def test_the_first_error_of_apt_is_told(text, line):
    assert drivers._first_error(text) == line


# ------------------------------------------------------------------- in a process


def test_the_module_imports_fast_and_alone(tmp_path):
    code = (
        "import sys, importlib.util as u\n"
        f"s = u.spec_from_file_location('d', {drivers.__file__!r})\n"
        "m = sys.modules['d'] = u.module_from_spec(s); s.loader.exec_module(m)\n"
        "heavy = {'subprocess', 'tempfile', 'json', 'wgpu', 'numpy', 'portanet'}\n"
        "print(sorted(heavy & set(sys.modules)), m.activate())\n"
    )
    env = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    env["PORTANET_SOFTWARE_DRIVER"] = "none"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env=env,
    )
    assert done.stdout.strip() == "[] False"
