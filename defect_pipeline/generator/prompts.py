"""The prompts of the first system's generator (paper A §3.1, §3.2)."""


def concept_prompt(token: str) -> str:
    """The component, by the rare ``token`` that comes to mean it."""
    return f"an image of a {token}"


def prior_prompt(class_noun: str) -> str:
    """What the component is one of, for prior preservation."""
    return f"an image of a {class_noun}"


def condition_prompt(token: str, defect_class: str) -> str:
    """The paper's "an image of a [V] with a [class] crack"; "defect" stands for what not every component cracks."""
    return f"an image of a {token} with a {defect_class} defect"
