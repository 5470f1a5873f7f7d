"""The model that scores slides where none is named; without other modules, so that `histocae --help` is quick."""

MODEL = "models:/histocae-pair@champion"
