import pytest

from jaxprompt import trees

TREE = {"model": {"encoder": {"q": 1, "k": 2}, "shared": 3}, "prompt": {"embedding": 4}}
FLAT = {"model/encoder/q": 1, "model/encoder/k": 2, "model/shared": 3, "prompt/embedding": 4}


def test_flatten_and_its_inverse():
    assert trees.flatten(TREE) == FLAT
    assert list(trees.flatten(TREE)) == list(FLAT)
    assert trees.unflatten(FLAT) == TREE
    assert trees.flatten({}) == {} == trees.unflatten({})
    assert trees.flatten({"a": {}, "b": 1}) == {"b": 1}


def test_first_rule_wins():
    rules = [("model/encoder/q", "first"), ("model/.*", "second"), (".*", "rest")]
    assert trees.match_rules(rules, FLAT) == {
        "model/encoder/q": "first",
        "model/encoder/k": "second",
        "model/shared": "second",
        "prompt/embedding": "rest",
    }


def test_map_rules_keeps_the_structure():
    assert trees.map_rules([("prompt/.*", "train"), ("model/.*", "freeze")], TREE) == {
        "model": {"encoder": {"q": "freeze", "k": "freeze"}, "shared": "freeze"},
        "prompt": {"embedding": "train"},
    }


def test_a_rule_matches_whole_paths_only():
    # The multi-task regex of the original release matched the beginning of a path that nothing had.
    for rule in ("prompt", "prompt/embed", "embedding", "rompt/embedding"):
        with pytest.raises(trees.RuleError, match="no rule covers 'prompt/embedding'"):
            trees.match_rules([(rule, 1)], ["prompt/embedding"])


def test_uncovered_paths_are_all_named():
    with pytest.raises(trees.RuleError, match=r"covers 'model/encoder/k', 'model/shared'\. The rules, in order: \['mo"):
        trees.match_rules([("model/encoder/q", 1), ("prompt/.*", 2)], FLAT)
    with pytest.raises(trees.RuleError, match="'p11' and 8 more"):
        trees.match_rules([], [f"p{n}" for n in range(20)])


def test_unused_and_shadowed_rules_are_named():
    with pytest.raises(trees.RuleError, match=r"decided by 'promt/\.\*'"):
        trees.match_rules([("promt/.*", 1), (".*", 2)], FLAT)
    with pytest.raises(trees.RuleError, match=r"decided by 'prompt/\.\*' \(is an earlier rule shadowing it"):
        trees.match_rules([(".*", 1), ("prompt/.*", 2)], FLAT)
    with pytest.raises(trees.RuleError, match="no rule covers 'a'; no path is decided by 'b'"):
        trees.match_rules([("b", 1)], ["a"])
    assert trees.match_rules([(".*", 1), ("prompt/.*", 2)], FLAT, unused_ok=True) == dict.fromkeys(FLAT, 1)
    with pytest.raises(trees.RuleError, match="no rule covers"):  # that leave goes for unused rules alone
        trees.match_rules([("b", 1)], ["a"], unused_ok=True)


def test_merge_undoes_split():
    chosen = {path: path in ("model/encoder/k", "prompt/embedding") for path in FLAT}
    ours, others = trees.split(TREE, chosen)
    assert ours == {"model": {"encoder": {"k": 2}}, "prompt": {"embedding": 4}}
    assert others == {"model": {"encoder": {"q": 1}, "shared": 3}}
    assert trees.merge(ours, others) == TREE == trees.merge(others, ours)
    assert trees.split(TREE, dict.fromkeys(FLAT, True)) == (TREE, {})
    with pytest.raises(KeyError, match="prompt/embedding"):
        trees.split(TREE, {path: True for path in FLAT if path != "prompt/embedding"})


def test_merge_refuses_what_two_trees_hold():
    with pytest.raises(ValueError, match="both hold 'model/shared'"):
        trees.merge(TREE, {"model": {"shared": 5, "head": 6}})


def test_merge_refuses_a_leaf_where_another_tree_has_a_subtree():
    with pytest.raises(ValueError, match="model"):
        trees.merge({"model": {"shared": 1}}, {"model": 2})
