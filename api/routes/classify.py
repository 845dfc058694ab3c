"""`/v1/classify`: which of its labels a classification head gives to each text."""

from __future__ import annotations

import time
import uuid

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from torch import Tensor

from graftwork.adapters.encoder.labels import Labels
from graftwork.api.dependencies.services import ServicesDep
from graftwork.api.inference.encoding import encode
from graftwork.api.schemas.classify import ClassificationOut, ClassifyRequest, ClassifyResponse
from graftwork.api.schemas.embeddings import TokensRead

router = APIRouter(tags=["inference"])


@router.post("/v1/classify", response_model=ClassifyResponse)
async def classify(body: ClassifyRequest, request: Request, services: ServicesDep) -> Response:
    """Classify each text, or pair of texts, by the head of the checkpoint or of the adapter.

    Scores are made as transformers' text-classification pipeline makes them: softmax over the labels; sigmoid for a
    head of one label or of labels that do not exclude each other; a regression's number as it is.
    `X-Graftwork-Version` names the version that answered.
    """
    texts = [text if isinstance(text, str) else (text.text, text.text_pair) for text in body.input]
    encoded = await encode(services, request, body, texts, "logits")
    labels = encoded.submitted.labels
    assert labels is not None  # noqa: S101  there are some for logits
    answer = ClassifyResponse(
        id=f"classify-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=body.model,
        data=[
            _classification(index, labels, labels.scores(logits) if body.use_activation else logits)
            for index, logits in enumerate(encoded.results)
        ],
        usage=TokensRead(prompt_tokens=encoded.tokens, total_tokens=encoded.tokens),
    )
    return JSONResponse(answer.model_dump(), headers=encoded.headers)


def _classification(index: int, labels: Labels, scores: Tensor) -> ClassificationOut:
    probs = scores.tolist()
    return ClassificationOut(
        index=index,
        label=labels.names[int(scores.argmax())],
        probs=probs,
        num_classes=len(probs),
        scores=dict(zip(labels.names, probs, strict=True)),
    )
