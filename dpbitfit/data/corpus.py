"""The demo's corpus: bank messages that this file generates, of no real person.

Each message is an opening, one of an intent's phrasings with its slots filled,
sometimes a remark that fits any intent, and a closing; some letters are
mistyped. The intents share their words (cards, transfers, charges), so that the
label names alone do not settle them and training shows. Customers write several
messages, for runs whose unit of privacy is a person.
"""

import csv
from pathlib import Path

import numpy as np

PHRASINGS: dict[str, tuple[str, ...]] = {
    "card_delivery": (
        "my new card still has not come after {days} days",
        "when will the plastic be in my letter box",
        "I moved to {city} and nothing has arrived in the post",
        "you said {days} days for shipping, where is it",
    ),
    "card_lost": (
        "I cannot find my wallet since {city}",
        "I left it in a taxi and need everything frozen",
        "my bag is gone with all my cards in it",
        "I think I dropped it at the {shop} counter",
    ),
    "card_declined": (
        "the terminal at the {shop} said no",
        "I was refused at the till although there is money",
        "it did not go through at the {shop}, twice",
        "the waiter came back and my payment was not accepted",
    ),
    "card_swallowed": (
        "the machine in {city} kept my card",
        "the cash point took it in and did not give it back",
        "it is stuck inside the ATM at the {shop}",
    ),
    "pin_blocked": (
        "I typed the wrong number three times",
        "the four digits do not work any more",
        "I forgot my code and now I am locked",
        "too many tries at the {shop}, how do I unlock it",
    ),
    "contactless_problem": (
        "tapping does not work at the {shop}",
        "I always have to insert it, holding it to the reader does nothing",
        "the wireless symbol is there but the terminal ignores it",
    ),
    "virtual_card": (
        "I need numbers that I can use only online",
        "can I get a second card without plastic for web shops",
        "is there something to put in my phone wallet today",
    ),
    "cash_withdrawal_fee": (
        "taking out {amount} cost me extra",
        "why was I charged at the ATM in {city}",
        "the machine gave {amount} and you booked more",
    ),
    "wrong_cash_amount": (
        "I asked the machine for {amount} and got less",
        "the ATM counted wrong, my account says {amount}",
        "I received only half of the notes",
    ),
    "exchange_rate": (
        "how many euros will I get for {amount}",
        "the conversion in {city} was worse than I expected",
        "which price do you use for foreign money",
    ),
    "foreign_fee": (
        "an extra percent was taken on my holiday in {city}",
        "do purchases abroad cost more",
        "there is a surcharge because the {shop} is in another country",
    ),
    "transfer_pending": (
        "I sent {amount} {days} days ago and it still says in progress",
        "my landlord has not received the money yet",
        "how long until what I sent reaches the other bank",
    ),
    "transfer_failed": (
        "the {amount} I sent came back",
        "I cannot send anything to my sister, it shows an error",
        "my order to pay the rent was rejected",
    ),
    "transfer_wrong_account": (
        "I sent {amount} to a stranger by mistake",
        "I mixed up two digits of the number and a wrong person was paid",
        "can you get back what I sent to the wrong one",
    ),
    "transfer_limit": (
        "what is the most that I can send in a day",
        "I have to move {amount} at once and am not allowed",
        "please raise how much I may pay out",
    ),
    "standing_order": (
        "pay my rent of {amount} on the first of each month",
        "how do I repeat a payment every month",
        "I want to stop what goes to my son each week",
    ),
    "direct_debit_dispute": (
        "the gym took {amount} though I left",
        "a company collects from me and I never agreed",
        "reverse what the {shop} pulled from my account",
    ),
    "duplicate_charge": (
        "the {shop} booked {amount} two times",
        "I see the same purchase twice",
        "I paid once and it appears again {days} days later",
    ),
    "unknown_payment": (
        "I do not recognise {amount} from {city}",
        "somebody bought things in my name",
        "there is a line from a {shop} where I have never been",
    ),
    "refund_missing": (
        "the {shop} says they returned {amount}, I see nothing",
        "I gave the shoes back {days} days ago, where is my money",
        "a cancelled booking has not been paid back",
    ),
    "salary_not_received": (
        "my employer paid on Friday and my balance is the same",
        "my wages of {amount} should be here",
        "my pension is {days} days late",
    ),
    "identity_check": (
        "why do you want a picture of my passport",
        "the selfie is not accepted",
        "my documents from {city} are refused when I sign up",
    ),
    "change_address": (
        "I live in {city} now",
        "I got married and my name and home are different",
        "letters still go to my old flat",
    ),
    "close_account": (
        "I am leaving for another bank",
        "please delete everything, I do not want to be a customer",
        "how do I end this and get the remaining {amount}",
    ),
}
LABELS = tuple(PHRASINGS)

_OPENINGS = ("", "", "hi", "hello", "good morning", "quick question:", "please help,", "so,")
_REMARKS = (
    *("",) * 12,
    *("I have been a customer for years.", "I wrote about my card last week too."),
    *("I only need to transfer the rent.", "The app shows my payments.", "I am abroad this week."),
    *("No fee was mentioned.", "My account is fine otherwise.", "I used the machine before."),
)
_CLOSINGS = ("", "", "", "thanks", "what can I do?", "please answer soon", "this is urgent")
_SLOTS = {
    "city": ("Lyon", "Porto", "Graz", "Turin", "Leeds", "Ghent", "Oslo", "Brno"),
    "shop": ("supermarket", "bakery", "pharmacy", "petrol station", "hotel", "book shop"),
    "amount": ("40 euros", "75", "120 pounds", "250", "800 euros", "1,500"),
    "days": ("two", "three", "5", "eight", "12"),
}
_TYPING_ERRORS = 0.02  # of the letters
_MESSAGES_PER_CUSTOMER = 4


def write_corpus(path: Path, records: int = 4000, seed: int = 7) -> Path:
    """Write ``records`` messages as CSV (text, label, customer), the labels beside it.

    The same seed gives the same file. Returns the path of the label set,
    ``<name>.labels.txt``.
    """
    generator = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label", "customer"])
        for _ in range(records):
            label = LABELS[generator.integers(len(LABELS))]
            customer = generator.integers(max(1, records // _MESSAGES_PER_CUSTOMER))
            rows.writerow([_message(label, generator), label, f"customer-{customer}"])
    labels = path.with_suffix(".labels.txt")
    labels.write_text("".join(f"{label}\n" for label in LABELS), encoding="utf-8")
    return labels


def _message(label: str, generator: np.random.Generator) -> str:
    def pick(choices: tuple[str, ...]) -> str:
        return choices[generator.integers(len(choices))]

    phrase = pick(PHRASINGS[label]).format(
        **{name: pick(values) for name, values in _SLOTS.items()}
    )
    text = " ".join(
        part for part in (pick(_OPENINGS), phrase, pick(_REMARKS), pick(_CLOSINGS)) if part
    )
    letters = list(text)
    for place in np.flatnonzero(generator.random(len(letters)) < _TYPING_ERRORS):
        if letters[place].isalpha():
            letters[place] = chr(ord("a") + generator.integers(26))
    return "".join(letters)
