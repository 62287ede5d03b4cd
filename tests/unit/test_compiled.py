"""Compiled code gives the same bytes when it was compiled a moment ago and when it is read from numba's cache.

In a process that compiles, a function that another compiled one calls exists twice: by itself, and inside its caller's
code, optimised once more. Which of the two runs differs between that process and all later ones, which read the
caller's code alone. With `fastmath` the two may add in another order; so such a function is put into its callers.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tamis

SOURCES = Path(tamis.__file__).parent
IN_ITS_CALLERS = {"forceinline", "inline"}
ATTENTION_AND_FACTORS = """
import hashlib
import numpy as np
import torch
from scipy.sparse import random as some
from tamis.nets.sequence import DinAttention
from tamis.nets.spread import Rows
from tamis.recall.ials import IALSConfig, factorise

torch.set_num_threads(1)
random = torch.Generator().manual_seed(0)
net = DinAttention(48, 80, 36, random)
row_of = torch.sort(torch.randint(0, 10, (80,), generator=random)).values
query, entries = torch.randn(80, 48, generator=random), torch.randn(10, 50, 80, generator=random)
there = torch.rand(10, 50, generator=random) < 0.8
given = query.requires_grad_(), entries.requires_grad_()
out = net(*given, there, Rows.of(row_of, 10))
out.backward(torch.randn(out.shape, generator=random))
found = [out.detach().numpy(), *(weight.grad.numpy() for weight in (*given, *net.parameters()))]
found += factorise(some(60, 40, 0.2, "csr", np.float32, np.random.default_rng(1)), IALSConfig(), 1)
print(*(hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:12] for array in found))
"""


def compiled(module: Path) -> Iterator[tuple[ast.FunctionDef, set[str]]]:
    """The functions of a module that numba compiles, with the names of the options they are compiled with."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        for decorator in getattr(node, "decorator_list", []):
            if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).endswith("njit"):
                assert isinstance(node, ast.FunctionDef)
                yield node, {str(keyword.arg) for keyword in decorator.keywords}


def test_a_function_that_adds_in_any_order_is_put_into_the_compiled_ones_that_call_it() -> None:
    every = {node.name: options for module in SOURCES.rglob("*.py") for node, options in compiled(module)}
    called = {
        call.func.id
        for module in SOURCES.rglob("*.py")
        for node, _ in compiled(module)
        for call in ast.walk(node)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in every
    }
    assert "_through_query" in called
    reordering = {name for name in called if "fastmath" in every[name]}
    assert {name for name in reordering if not every[name] & IN_ITS_CALLERS} == set()


@pytest.mark.slow
def test_a_process_that_compiles_gives_the_bytes_of_those_after_it(
    tmp_path: Path, child_environment: dict[str, str]
) -> None:
    environment = child_environment | {"NUMBA_CACHE_DIR": os.fspath(tmp_path), "OMP_NUM_THREADS": "1"}
    first, second = (
        subprocess.run(
            [sys.executable, "-c", ATTENTION_AND_FACTORS], env=environment, check=True, capture_output=True, timeout=300
        ).stdout
        for _ in range(2)
    )
    assert len(first.split()) == 10
    assert first == second
