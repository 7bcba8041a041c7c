"""What annotations say of themselves."""

from tests.evaluation.listed import objects


def test_crowds_and_difficult_objects_do_not_count():
    four = {"crowd": [False, True, False, True], "difficult": [False, False, True, True]}
    assert objects([(1, 1, 9, 9)] * 4, [0] * 4, **four).counted.tolist() == [True, False, False, False]
    assert objects().counted.tolist() == []
