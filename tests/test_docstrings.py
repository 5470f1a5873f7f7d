"""Docstrings of public functions have the sections Args, Returns and Raises where these apply."""

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
    arguments = [*signature.posonlyargs, *signature.args, *signature.kwonlyargs]
    return [argument for argument in arguments if argument.arg not in ("self", "cls")]


def missing_sections(function: ast.FunctionDef) -> list[str]:
    """List the sections that a docstring in Google's form lacks."""
    text = ast.get_docstring(function) or ""
    arguments = parameters(function)
    result_type = ast.unparse(function.returns) if function.returns else "None"
    arrays = [
        argument for argument in arguments if argument.annotation and "ndarray" in ast.unparse(argument.annotation)
    ]
    raised_errors = {
        ast.unparse(node.exc.func)
        for node in ast.walk(function)
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and ast.unparse(node.exc.func).endswith("Error")
    }
    missing = []
    if (len(arguments) > 1 or arrays) and "Args:" not in text:
        missing.append("Args")
    has_result = any(name in text for name in ("Returns:", "Yields:"))
    if (
        (len(arguments) > 1 or "ndarray" in result_type)
        and result_type not in ("None", "Self", "NoReturn")
        and not has_result
    ):
        missing.append("Returns")
    if raised_errors and "Raises:" not in text:
        missing.append("Raises")
    return missing


@pytest.mark.parametrize("file", FILES)
def test_public_functions_document_arguments_results_and_errors(file):
    tree = ast.parse((PACKAGE / file).read_text(encoding="utf-8"))
    missing = {
        f"{file}:{function.lineno} {function.name}": sections
        for function in public_functions(tree)
        if (sections := missing_sections(function))
    }
    assert not missing
