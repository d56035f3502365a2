"""The one exception the user is meant to read."""


class PipelineError(Exception):
    """Something the user can mend: one sentence that names the file or setting and the remedy."""


class MissingArtifactError(PipelineError):
    """The store has no current artifact of an asset: the run did not come so far."""
