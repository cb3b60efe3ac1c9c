"""A pytest plugin: portanet._c is the file that PN_EXTENSION names."""

import importlib.machinery
import importlib.util
import os
import sys


class Finder:
    """Finds portanet._c and nothing else."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "portanet._c":
            return None
        file = os.environ["PN_EXTENSION"]
        loader = importlib.machinery.ExtensionFileLoader(name, file)
        return importlib.util.spec_from_file_location(name, file, loader=loader)


sys.meta_path.insert(0, Finder)
