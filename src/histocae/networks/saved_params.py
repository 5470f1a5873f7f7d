"""params.yaml of a saved CAE, checked key by key."""

from pathlib import Path
from typing import Annotated, Literal, cast

from pydantic import ConfigDict, Field, ValidationError

from histocae import params_file
from histocae.errors import DataError, YamlError, raise_if_machine
from histocae.files import read_yaml
from histocae.networks.blocks import NetworkParams
from histocae.params import Section

# beyond this no file holds the weights; with it, sums and products of params stay short numbers
_Count = Annotated[int, Field(ge=1, lt=2**31)]
_MOST_LAYERS = 64


class _SavedParams(Section):
    """The types of `NetworkParams`; other keys are ignored, as a later version may add some."""

    model_config = ConfigDict(extra="ignore")

    architecture: Literal["plain", "residual", "compact", "pca"]
    input_shape: Annotated[list[_Count], Field(min_length=3, max_length=3)]
    latent_features: _Count | None
    filters: Annotated[list[_Count], Field(max_length=_MOST_LAYERS)]
    kernel: Annotated[list[_Count], Field(min_length=2, max_length=2)]
    stride: _Count
    pool: Annotated[list[_Count], Field(min_length=2, max_length=2)]
    optimizer: str
    lossfn: str


def read_params(file: Path, remedy: str) -> NetworkParams:
    """Read params.yaml of a saved CAE.

    Args:
        file: params.yaml.
        remedy: end of the error's line.

    Returns:
        The params, each of its type; whether the architecture allows them together is not checked.

    Raises:
        DataError: the file is missing or not YAML, or a key is missing, ill-typed or out of range.

    """
    try:
        content = read_yaml(file)
    except (OSError, RecursionError) as error:
        raise_if_machine(error)
        raise DataError(f"{file}: can't be read: {error}; {remedy}") from None
    except YamlError as error:
        raise DataError(f"{error}; {remedy}") from None
    if not isinstance(content, dict):
        raise DataError(f"{file}: not the params of a CAE: expected keys with values; {remedy}")
    try:
        params = _SavedParams.model_validate(content)
    except ValidationError as error:
        faults = params_file.explain_all(error, _SavedParams)
        raise DataError(f"{file}: not the params of a CAE: {faults}; {remedy}") from None
    return cast(NetworkParams, params.model_dump())
