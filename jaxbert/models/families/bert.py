"""The family BERT."""

from __future__ import annotations

from typing import Any

from jaxbert.models.families.base import Family


def _config_class() -> Any:
    from transformers import BertConfig

    return BertConfig


_LARGE = {"num_hidden_layers": 24, "hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096}
_MINILM = {"num_hidden_layers": 6, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}

BERT = Family(
    model_type="bert",
    prefix="bert",
    architecture="Bert",
    config_class=_config_class,
    published={
        "bert-base-uncased": {"vocab_size": 30_522},
        "bert-base-cased": {"vocab_size": 28_996},
        "bert-large-uncased": {"vocab_size": 30_522, **_LARGE},
        "bert-large-cased": {"vocab_size": 28_996, **_LARGE},
        "bert-base-chinese": {"vocab_size": 21_128},
        "bert-base-multilingual-cased": {"vocab_size": 119_547},
        "hfl/chinese-roberta-wwm-ext": {"vocab_size": 21_128},
        "sentence-transformers/all-MiniLM-L6-v2": {"vocab_size": 30_522, **_MINILM},
    },
    layers=("encoder", "layer"),
    query="attention.self.query",
    embeddings="embeddings",
    pooler="pooler",
    word_embeddings="embeddings.word_embeddings.weight",
    sizes={
        "vocab_size": ("embeddings.word_embeddings.weight", 0),
        "max_position_embeddings": ("embeddings.position_embeddings.weight", 0),
        "type_vocab_size": ("embeddings.token_type_embeddings.weight", 0),
        "hidden_size": ("embeddings.word_embeddings.weight", 1),
        "intermediate_size": ("encoder.layer.0.intermediate.dense.weight", 0),
    },
    head_groups=frozenset({"cls"}),
    word_scores="cls.predictions",
    classifier=("classifier",),
    classifiers=frozenset({"ForSequenceClassification", "ForTokenClassification", "ForMultipleChoice"}),
    norms=frozenset({"LayerNorm"}),
    tables="_embeddings",
    old_leaves={"gamma": "weight", "beta": "bias"},
    buffers=("position_ids", "token_type_ids"),
    look_alikes=frozenset({"roberta", "electra", "ernie", "nezha", "layoutlm", "xlm_roberta"}),
    foreign_keys={
        "embedding_size": "ALBERT or ELECTRA",
        "num_hidden_groups": "ALBERT",
        "dim": "DistilBERT",
        "use_relative_position": "NEZHA",
        "max_relative_position": "NEZHA",
        "relative_attention": "DeBERTa",
        "q_groups": "SqueezeBERT",
        "conv_kernel_size": "ConvBERT",
        "max_2d_position_embeddings": "LayoutLM",
        "use_task_id": "ERNIE",
    },
    tokenizer="BertTokenizer",
    special_tokens={
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    },
    piece_marker="##",
)
