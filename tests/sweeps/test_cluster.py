"""Where trials run: a scheduler that is safe to reach, workers with a GPU or cores each, a cluster left as it is."""

import pytest
from trials import run_here, trained

from lowrank.errors import InputError
from lowrank.sweeps.cluster import check_scheduler

pytestmark = pytest.mark.usefixtures("data_without_loading")


def test_a_cluster_that_others_started_is_used_and_left_running(tmp_path, cluster):
    for seed in (0, 1):
        table, _ = run_here(tmp_path, seed, scheduler=cluster)
        assert table["status"].tolist() == ["done"]


@pytest.mark.parametrize(
    "address", ["tls://far.example:8786", "tcp://127.0.0.1:8786", "tcp://localhost:8786", "tcp://[::1]:1"]
)
def test_a_scheduler_here_or_behind_tls_is_accepted(address):
    check_scheduler(address, insecure=False)


@pytest.mark.parametrize(
    "address",
    [
        "tcp://10.0.0.7:8786",
        "tcp://far.example:8786",
        "far:8786",
        "tls://far",
        "8786",
        "tls://[::1",
        "tls://far:99999",
        "tls://far:x",
    ],
)
def test_a_scheduler_elsewhere_without_tls_is_refused(address, tmp_path):
    with pytest.raises(InputError, match="scheduler='.*'.*tls://"):
        run_here(tmp_path, 0, scheduler=address)
    assert trained(tmp_path) == []
    if address.startswith("tcp"):
        check_scheduler(address, insecure=True)
