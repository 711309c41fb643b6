"""Runs on remote data: resumed to the same losses, and without what is secret in an address in anything that is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from served import serving
from tiny_tables import png, write_tar
from vitkit.cli.main import main
from vitkit.jobs.pretrain import pretrain

SMALL = {
    "steps": 2, "batch_size": 4, "evaluations": 1, "model.depth": 1, "model.embed_dim": 32, "model.num_heads": 2,
    "model.mlp_dim": 32,
}  # fmt: skip


def test_a_run_on_shards_of_a_web_server_shows_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("VITKIT_OFFLINE", "HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    shards = tmp_path / "shards"
    for n in range(2):
        write_tar(shards / f"train-{n}.tar", {f"{c}/{n}{i}.png": png(i + 9 * n) for c in ("a", "b") for i in range(3)})
    local = pretrain("cifar10_small", data=shards, out=tmp_path / "local", settings=SMALL, workers=0)
    with serving() as web:
        web.files = {f"/s/{path.name}": path.read_bytes() for path in shards.iterdir()}
        url = f"{web.url}/s/train-{{0..1}}.tar?X-Amz-Signature=secret"
        arguments = ["cifar10_small", f"data={url}", *(f"{key}={value}" for key, value in SMALL.items())]
        monkeypatch.setattr("sys.argv", ["vit", "pretrain", *arguments])
        assert main(["pretrain", *arguments, "--out", str(tmp_path / "remote"), "--workers", "0"]) == 0
    printed = capsys.readouterr()
    assert "secret" not in printed.out + printed.err
    shown = [path for path in (tmp_path / "remote").rglob("*") if path.is_file() and b"secret" in path.read_bytes()]
    assert [path.name for path in shown] == ["arguments.json"]  # which going on with the run needs

    def losses(run: Path) -> list[float]:
        return [e["loss"] for e in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if "loss" in e]

    assert losses(tmp_path / "remote") == losses(local.run)
