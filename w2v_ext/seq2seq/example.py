"""Five Chinese-English pairs of our own making: what is learnt where no text is given, as a test of the whole way."""

from __future__ import annotations

from .config import Seq2SeqConfig

PAIRS = (
    ("早上的茶还很烫。", "The morning tea is still hot."),
    ("我把蓝色的伞忘在火车上了。", "I left my blue umbrella on the train."),
    ("两只猫在屋顶上睡觉。", "Two cats are asleep on the roof."),
    ("明天我们去河边画画。", "Tomorrow we will go to the river and paint."),
    ("这封信是谁写给你的？", "Who wrote this letter to you?"),
)


def example_config(out: str) -> Seq2SeqConfig:
    """Settings with which the pairs are learnt by heart in seconds."""
    return Seq2SeqConfig(
        out=out,
        tokenizer="char",
        tgt_tokenizer="word",
        embed_size=48,
        hidden_size=96,
        dropout=0.0,
        embed_dropout=0.0,
        label_smoothing=0.0,
        epochs=80,
        warmup=10,
        lr=5e-3,
        batch_tokens=64,
        validate_every=20,
        average=1,
        patience=50,
        metric="loss",
        precision="float32",
    )
