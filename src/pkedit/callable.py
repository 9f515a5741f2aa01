"""Lets `pkedit.locate`, `pkedit.edit` and `pkedit.evaluate` be both a package and its main function."""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


def make_callable(package: str, module: str, function: str) -> None:
    """Makes `package(...)` call `module.function(...)`, imported at the first call so that torch stays out."""

    class CallablePackage(ModuleType):
        def __call__(self, *args: Any, **keywords: Any) -> Any:
            return getattr(import_module(module), function)(*args, **keywords)

    sys.modules[package].__class__ = CallablePackage
