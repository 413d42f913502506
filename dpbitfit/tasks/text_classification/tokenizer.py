"""A model's tokenizer, and whether it can read texts for that model at all."""

from typing import Any

from transformers import AutoTokenizer

from dpbitfit.errors import InputError, ModelError
from dpbitfit.tasks.models import reason

# Public texts in some of the scripts and notations that are classified. Pieces of the one that a
# tokenizer knows best are the probes of the check at attach time.
PROBE_TEXTS = (
    "the card has not come and I was charged twice for one payment last week: what is the rate of "
    "my new loan, how long does a transfer to another country take, and whom do I ask about a fee",
    "карта не пришла, и мне дважды начислили плату за один платёж: какая ставка по новому займу",
    "我的银行卡还没有到，上周的一笔付款被收取了两次，新贷款的利率是多少，转账到另一个国家需要多长时间",
    "カードがまだ届いていません。先週の支払いが二重に請求されました。新しいローンの利率はいくらですか",
    "لم تصل البطاقة بعد وتم خصم الدفعة مرتين في الأسبوع الماضي، ما هو سعر الفائدة على القرض الجديد",
    "कार्ड अभी तक नहीं आया है और पिछले हफ्ते एक भुगतान के लिए दो बार शुल्क लिया गया, नए ऋण की दर क्या है",
    "카드가 아직 오지 않았고 지난주 결제가 두 번 청구되었습니다. 새 대출의 이자율은 얼마입니까",
    "M K T A Y I A K Q R Q I S F V K S H F S R Q L E E R L G L I E V Q A P I L S R V G D G T Q D N",
    "ACGTTGCAAGTCCGATTAGCCTAGGCTAACGTCCATGGTACGATCGATTGCA",
)


def load_tokenizer(folder: str, embeddings: int) -> Any:
    """The tokenizer of a folder, for a model of ``embeddings`` tokens; it pads to the right.

    Raises InputError where it cannot be loaded. Raises ModelError where it knows none of the
    probe texts (its own files are missing, or are another model's), knows tokens that the
    model does not, or has none to pad with.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        known = any(_known(tokenizer, text) for text in PROBE_TEXTS)
    except Exception as error:  # libraries raise of many kinds, bare ones too
        raise InputError(f"{folder}: its tokenizer cannot be loaded: {reason(error)}") from error
    if not known:
        raise ModelError(
            f"{folder}: its tokenizer knows no text: are its files (tokenizer.json or the "
            "vocabulary, and tokenizer_config.json) beside the weights?"
        )
    if max(tokenizer.get_vocab().values()) >= embeddings:
        # A record with such a token would end its round: that would tell of the record.
        raise ModelError(f"{folder}: its tokenizer knows tokens that the model has none for")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise ModelError(
            f"{folder}: its tokenizer has neither a padding nor an end token: name one as "
            "pad_token in tokenizer_config.json"
        )
    tokenizer.padding_side = "right"
    return tokenizer


def probe_text(tokenizer: Any) -> str:
    """The public text of which a tokenizer knows most."""
    return max(PROBE_TEXTS, key=lambda text: len(_known(tokenizer, text)))


def _known(tokenizer: Any, text: str) -> set[int]:
    """The tokens of a text that stand for something."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return set(ids) - {None, *tokenizer.all_special_ids}
