"""The models of request bodies."""

from pydantic import BaseModel, ConfigDict, model_validator


class RequestModel(BaseModel):
    """An object in a request body. It rejects unknown keys, and reports the first one only.

    pydantic builds an error for each unknown key, and a body can have thousands.
    """

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _keep_one_unknown_key(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        unknown = next((key for key in value if key not in cls.model_fields), None)
        if unknown is None:
            return value
        return {key: value[key] for key in (*cls.model_fields, unknown) if key in value}
