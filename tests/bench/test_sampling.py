"""`bench.sampling` prints a share for each kind of sampling."""

from bench import sampling
from lepton_edge.cli.shapes import SHAPES


def test_it_prints_what_it_measured(monkeypatch, capsys):
    small = SHAPES["smollm2-135m"] | {"num_hidden_layers": 1, "vocab_size": 640, "intermediate_size": 64}
    monkeypatch.setattr(sampling, "SHAPES", {"small": small})
    monkeypatch.setattr("sys.argv", ["sampling", "small", "-n", "2", "-t", "1"])
    sampling.main()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[:3] for row in rows] == [["small", "640", kind] for kind in sampling.KINDS]
    for row in rows:
        step, summary, choice = (int(cell) for cell in row[3:6])
        assert 0 < summary < step and abs(float(row[6].rstrip("%")) - 100 * (choice + summary) / (step + choice)) < 1
