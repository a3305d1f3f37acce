"""The kinds of contract that pyproject.toml uses, each of which leaves the tests out of the graph.

Tests reach into every room; import-linter has no option that says so once for all contracts.
"""

from grimp import ImportGraph
from importlinter import Contract, ContractCheck
from importlinter.contracts.acyclic_siblings import AcyclicSiblingsContract
from importlinter.contracts.forbidden import ForbiddenContract
from importlinter.contracts.independence import IndependenceContract
from importlinter.contracts.layers import LayersContract
from importlinter.contracts.protected import ProtectedContract


class _WithoutTests(Contract):
    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        for module in [name for name in graph.modules if "tests" in name.split(".")]:
            graph.remove_module(module)
        return super().check(graph, verbose)


class AcyclicSiblings(_WithoutTests, AcyclicSiblingsContract):
    """No circle between the children of a package."""


class Forbidden(_WithoutTests, ForbiddenContract):
    """These import none of those."""


class Independence(_WithoutTests, IndependenceContract):
    """These do not import each other."""


class Layers(_WithoutTests, LayersContract):
    """What is higher imports what is lower, never the other way round."""


class Protected(_WithoutTests, ProtectedContract):
    """These are imported by those alone."""
