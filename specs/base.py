"""The base of every model in `specs`: frozen, and refusing what it does not know."""

from pydantic import BaseModel, ConfigDict


class Spec(BaseModel):
    """A frozen pydantic model that refuses unknown fields and non-finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())
