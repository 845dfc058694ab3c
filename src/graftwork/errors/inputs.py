"""What was asked for cannot be done as asked."""

from __future__ import annotations

from graftwork.errors.error import GraftworkError


class InvalidInput(GraftworkError):
    """The request cannot be carried out as written."""

    code = "invalid_input"


class InvalidName(InvalidInput):
    """{value!r} is not a valid {what}: {expected}."""

    code = "invalid_name"


class InvalidReference(InvalidInput):
    """{value!r} is not a reference: {expected}."""

    code = "invalid_reference"


class InvalidSetting(InvalidInput):
    """The setting {name} is {value!r}: expected {expected}."""

    code = "invalid_setting"


class InvalidRequest(InvalidInput):
    """{field}: {reason}."""

    code = "invalid_request"


class ContextLengthExceeded(InvalidRequest):
    """{field}: {reason}."""

    code = "context_length_exceeded"


class IdempotencyKeyReused(InvalidInput):
    """The Idempotency-Key {key!r} came with another request before: send a key of its own with each request."""

    code = "idempotency_key_reused"


class InvalidSweep(InvalidInput):
    """The sweep is not valid at {where}: {reason}."""

    code = "invalid_sweep"


class InvalidRecipe(InvalidInput):
    """The recipe is not valid at {where}: {reason}."""

    code = "invalid_recipe"


class UnknownMethod(InvalidRecipe):
    """There is no merge method {method!r}; there is {known}."""

    code = "unknown_method"


class UnknownParameter(InvalidRecipe):
    """{method} has no parameter {parameter!r} (at {where}); it takes {known}."""

    code = "unknown_parameter"


class InvalidParameter(InvalidRecipe):
    """The parameter {parameter!r} at {where} is {value!r}: {expected}."""

    code = "invalid_parameter"
