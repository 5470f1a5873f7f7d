"""Docstrings of what is public: each argument, what comes back, what is raised."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import histocae

PACKAGE = Path(histocae.__file__).parent
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def public_functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    """Yield the public functions of a module and the public methods of its public classes."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            yield node
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and (method.name == "__init__" or method.name[0] != "_"):
                    yield method


def parameters(function: ast.FunctionDef) -> list[ast.arg]:
    """List the parameters of a function, without self and cls."""
    signature = function.args
    listed = [*signature.posonlyargs, *signature.args, *signature.kwonlyargs]
    return [one for one in listed if one.arg not in ("self", "cls")]


def missing_sections(function: ast.FunctionDef) -> list[str]:
    """List the sections that a docstring in Google's form lacks."""
    text = ast.get_docstring(function) or ""
    given = parameters(function)
    returned = ast.unparse(function.returns) if function.returns else "None"
    arrays = [one for one in given if one.annotation and "ndarray" in ast.unparse(one.annotation)]
    own_errors = {
        ast.unparse(node.exc.func)
        for node in ast.walk(function)
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and ast.unparse(node.exc.func).endswith("Error")
    }
    missing = []
    if (len(given) > 1 or arrays) and "Args:" not in text:
        missing.append("Args")
    says_result = any(name in text for name in ("Returns:", "Yields:"))
    if (len(given) > 1 or "ndarray" in returned) and returned not in ("None", "Self", "NoReturn") and not says_result:
        missing.append("Returns")
    if own_errors and "Raises:" not in text:
        missing.append("Raises")
    return missing


@pytest.mark.parametrize("file", FILES)
def test_public_functions_document_arguments_results_and_errors(file):
    tree = ast.parse((PACKAGE / file).read_text(encoding="utf-8"))
    lacking = {
        f"{file}:{function.lineno} {function.name}": sections
        for function in public_functions(tree)
        if (sections := missing_sections(function))
    }
    assert not lacking
