"""The mixtures of the mini world's unlabelled text."""

import collections
import hashlib

import pytest

from jaxprompt.data import mini
from jaxprompt.data.mini import facts
from jaxprompt.data.mini.corpus import MIXTURES
from jaxprompt.experiment import CorpusConfig

SUBJECTS = tuple({subject for subject, _, _ in facts.triples()})


@pytest.mark.parametrize("mixture", MIXTURES)
def test_shares_make_a_whole_and_experiments_know_the_name(mixture):
    assert sum(share for _, share in MIXTURES[mixture]) == pytest.approx(1.0)
    assert CorpusConfig(mixture=mixture).mixture == mixture


def test_the_text_of_the_nano_t5_stays_what_it_was():
    """A model in the package was trained on it."""
    text = "\n".join(mini.documents(0, 0, 500))
    assert (
        hashlib.sha256(text.encode()).hexdigest() == "e4d2c93331a5b46c3d384664950b26b92920efc9088843cde2f0d7764c91fc68"
    )


def test_writing_has_more_facts_and_tables():
    counts = {}
    for mixture in MIXTURES:
        counts[mixture] = collections.Counter()
        for document in mini.documents(7, 0, 4000, mixture):
            counts[mixture]["facts"] += any(subject in document for subject in SUBJECTS)
            counts[mixture]["tables"] += "type[" in document
    # Seven in ten of the descriptions hold the table too.
    assert counts["understanding"]["facts"] / 4000 == pytest.approx(0.06, abs=0.02)
    assert counts["writing"]["facts"] / 4000 == pytest.approx(0.40, abs=0.03)
    assert counts["writing"]["tables"] / 4000 == pytest.approx(0.30 * 0.7, abs=0.03)


def test_a_document_is_a_function_of_seed_number_and_mixture():
    assert mini.documents(4, 10, 5, "writing") == [mini.document(4, i, "writing") for i in range(10, 15)]
    assert mini.documents(4, 10, 5, "writing") != mini.documents(4, 10, 5)
    assert mini.documents(4, 10, 5, "understanding") == mini.documents(4, 10, 5)


def test_an_unknown_mixture_is_refused():
    with pytest.raises(ValueError, match="no mixture 'wirting'; its mixtures are understanding, miniature, writing"):
        mini.document(0, 0, "wirting")
