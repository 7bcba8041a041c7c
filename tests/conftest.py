"""Conditions under which every test runs: strict promotion, eight CPU devices, a compilation cache shared by runs."""

import importlib.metadata
import os
import pathlib

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile much and compute little. Without optimising, and without XLA's own kernels for fusions where they can be
# turned off, a tiny detector's init, losses and predict compile in a quarter of the time, with the same numbers up to
# rounding. SEGJAX_OPTIMIZED=1 tests what XLA does by default.
QUICK = " --xla_backend_optimization_level=0"
if importlib.metadata.version("jaxlib") < "0.11":
    QUICK += " --xla_cpu_use_fusion_emitters=false"
if os.environ.get("SEGJAX_OPTIMIZED"):
    QUICK = ""
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8" + QUICK

import jax
import numpy as np
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
CACHE = pathlib.Path(os.environ.get("SEGJAX_CACHE", pathlib.Path(__file__).parents[1] / ".cache")) / "jax"
jax.config.update("jax_compilation_cache_dir", str(CACHE))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


@pytest.fixture
def rng() -> np.random.Generator:
    """A NumPy generator with a fixed seed, one for each test."""
    return np.random.default_rng(0)


@pytest.fixture
def key() -> jax.Array:
    """A JAX key with a fixed seed."""
    return jax.random.key(0)


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests with a fixture of their module's scope run in one process: it is made once, and some are trained."""
    for item in items:
        found = getattr(item, "_fixtureinfo", None)
        fixtures = [fixture for named in (found.name2fixturedefs if found else {}).values() for fixture in named]
        if any(fixture.scope == "module" for fixture in fixtures):
            item.add_marker(pytest.mark.xdist_group(item.module.__name__))
