"""`/v1/embeddings`: a vector of each text."""

from __future__ import annotations

import base64
from typing import Any

import torch
from anyio import to_thread
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from graftwork.adapters.encoder.engine import EncoderEngine
from graftwork.api.dependencies.services import ServicesDep
from graftwork.api.inference.encoding import Encoded, encode
from graftwork.api.schemas.embeddings import EmbeddingsRequest, EmbeddingsResponse
from graftwork.errors import InvalidRequest

router = APIRouter(tags=["inference"])


@router.post("/v1/embeddings", response_model=EmbeddingsResponse)
async def create_embeddings(body: EmbeddingsRequest, request: Request, services: ServicesDep) -> Response:
    """Make a vector of each text, or list of token ids; `X-Graftwork-Version` names the version that answered."""

    def check(engine: EncoderEngine) -> None:
        if body.dimensions is not None and body.dimensions > engine.width:
            reason = f"{body.dimensions} is given; this model's vectors have {engine.width}"
            raise InvalidRequest(field="dimensions", reason=reason)

    encoded = await encode(services, request, body, body.input, "vectors", check)
    return await to_thread.run_sync(_response, body, encoded)


def _response(body: EmbeddingsRequest, encoded: Encoded) -> Response:
    """Not checked against the schema once more: that would take longer than the model."""
    pooling = encoded.submitted.engine.pooling
    vectors = pooling.finish(torch.stack(encoded.results), body.dimensions, body.normalize)
    written: list[Any] = vectors.tolist() if body.encoding_format == "float" else [_base64(row) for row in vectors]
    answer = {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(written)],
        "model": body.model,
        "usage": {"prompt_tokens": encoded.tokens, "total_tokens": encoded.tokens},
    }
    return JSONResponse(answer, headers=encoded.headers)


def _base64(vector: torch.Tensor) -> str:
    return base64.b64encode(vector.numpy().astype("<f4").tobytes()).decode()
