"""Look at the cluster: whether it can be reached, is large enough for every stage, and has the files."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from flowse.errors import UserError
from flowse.fetching import fetched
from pipelines.commands.doctor.finding import Finding, Severity
from pipelines.engine.cluster import address_of, ray_cluster, this_machine
from pipelines.engine.mirror import mirror_of
from pipelines.engine.resources import Capacity, Resources
from pipelines.engine.shipping import Origin, Parcel
from pipelines.engine.store import Store
from pipelines.experiment import ClusterConfig, StageResources

_ANSWER_S = 90.0


def look(cluster: ClusterConfig, workspace: Path, needed: Mapping[str, Path]) -> Iterator[Finding]:
    """Look at the cluster that the configuration names, or at this machine if it names none.

    Args:
        cluster: The cluster's configuration.
        workspace: Folder that every node must be able to read and write.
        needed: Files that every node must be able to read, by config key or corpus.
    """
    if cluster.backend == "local":
        here = this_machine(cluster)
        yield Finding("ok", "Ray", f"not used (cluster.backend is local): {here.cores:g} CPUs, {here.gpus:g} GPUs")
        return
    address = address_of(cluster)
    if not address:
        here = this_machine(cluster)
        yield Finding("ok", "Ray", f"started on this machine for the run: {here.cores:g} CPUs, {here.gpus:g} GPUs")
        yield from fitting(cluster.stages, here)
        return
    why = _unreachable(address)
    if why:
        mend = "start it, or mend cluster.ray_address"
        yield Finding("error", "Ray", f"{address} cannot be reached: {why}", mend)
        return
    try:
        with ray_cluster(cluster) as capacity:
            yield from _connected(cluster, capacity, address, workspace, needed)
    except UserError as error:
        yield Finding("error", "Ray", str(error))


def _unreachable(address: str) -> str | None:
    """Try the port of a `host:port` address, which fails at once where Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    return reachable(host, int(port)) if host and port.isdigit() else None


def reachable(host: str, port: int) -> str | None:
    """Try a TCP connection; return None, or why there is none."""
    try:
        socket.create_connection((host, port), timeout=3).close()
    except OSError as error:
        return str(error)
    return None


def fitting(stages: StageResources, capacity: Capacity, *, awaits_nodes: bool = False) -> Iterator[Finding]:
    """Compare the CPUs and GPUs that every stage asks for with those of the nodes.

    Args:
        stages: Resources by stage.
        capacity: Cores and GPUs, node by node.
        awaits_nodes: Whether a run waits for nodes that are not there yet: then nothing is an error.
    """
    for field in fields(stages):
        asked: Resources = capacity.resolve(getattr(stages, field.name))
        key = f"cluster.stages.{field.name}"
        fits = capacity.fits(asked)
        if not fits:
            text = f"a worker asks for {asked}, no node has that now"
            if awaits_nodes:
                mend = "let the autoscaler's nodes be large enough: the run waits for one (cluster.await_nodes_s)"
                yield Finding("warning", key, text, mend)
            else:
                mend = "lower num_cpus or num_gpus, add nodes, or let runs wait for them (cluster.await_nodes_s)"
                yield Finding("error", key, text, mend)
            continue
        workers = asked.workers or 1
        if workers > fits:
            text = (
                f"{workers} workers ask for {workers * asked.num_cpus} CPUs and {workers * asked.num_gpus:g} GPUs, the "
                f"cluster has {capacity.cores:g} and {capacity.gpus:g}: room for {fits}"
            )
            # Data stages start as many as fit; the ranks of a training start all together or not at all.
            severity: Severity = "error" if field.name == "train" and not awaits_nodes else "warning"
            yield Finding(severity, key, text, "lower workers, or add nodes")


def _connected(
    cluster: ClusterConfig, capacity: Capacity, address: str, workspace: Path, needed: Mapping[str, Path]
) -> Iterator[Finding]:
    """Look at a cluster that answered: whether it is large enough, and whether its nodes share one file system."""
    import ray

    text = f"{address}: {len(capacity.nodes)} nodes, {capacity.cores:g} CPUs, {capacity.gpus:g} GPUs"
    yield Finding("ok", "Ray", text)
    yield from fitting(cluster.stages, capacity, awaits_nodes=cluster.await_nodes_s > 0)
    yield from _shared([node for node in ray.nodes() if node["Alive"]], workspace, needed)


def _shared(nodes: Sequence[Mapping[str, Any]], workspace: Path, needed: Mapping[str, Path]) -> Iterator[Finding]:
    """Write a file into the workspace, and let every node read it and write one of its own."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    token = secrets.token_hex(8)
    question = workspace / f".doctor-{token}"
    question.write_text(token, encoding="utf-8")
    mirror = mirror_of(workspace)
    task = ray.remote(answer_of_node)
    asked = Parcel.of((mirror.store.url if mirror else "", dict(needed)), Origin.of(workspace))
    waiting = {}
    for node in nodes:
        place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        # No CPUs: a cluster at work must answer too.
        call = task.options(num_cpus=0, scheduling_strategy=place, max_retries=0)
        reply = workspace / f".doctor-{token}-{node['NodeID'][:12]}"
        waiting[call.remote(str(question), token, str(reply), asked)] = (node, reply)
    sound = 0
    try:
        done, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=_ANSWER_S)
        for reference, (node, reply) in waiting.items():
            where = f"node {node.get('NodeManagerHostname') or node['NodeID'][:12]}"
            if reference not in done:
                yield Finding("error", where, f"gave no answer in {_ANSWER_S:g} s", "look at it with `ray status`")
                continue
            try:
                answered = ray.get(reference)
                found = list(judge(where, answered, bool(mirror) or _written(reply, token), workspace))
            except ray.exceptions.RayError as error:
                why = str(error).strip().splitlines()[-1]
                yield Finding("error", where, f"cannot run this code: {why}", "install it there, or set ship_code")
                continue
            yield from found
            sound += not found
    finally:
        for path in workspace.glob(f".doctor-{token}*"):
            path.unlink(missing_ok=True)
    if mirror and sound == len(nodes):
        yield Finding("ok", "workspace", f"{sound} node(s) read and write {mirror.store.url}")
    elif sound == len(nodes) > 1:
        text = f"one file system for {sound} nodes: each read what was written here, and the other way round"
        yield Finding("ok", "workspace", text)


def answer_of_node(question: str, token: str, reply: str, asked: Parcel) -> dict[str, Any]:
    """Run on a node: look for the needed files as a worker would; see `answer`.

    Args:
        question: File that the driver wrote.
        token: Content that the file should have.
        reply: File to write.
        asked: Where the workspace is, if it is in a store, and the needed files by config key or corpus.

    Returns:
        As `answer`; with a workspace in a store also "store": why it cannot be used from here, or "".
    """
    why, url, needed = "", "", dict[str, Path]()
    try:
        url, needed = asked.open()
        needed = {name: fetched(path) for name, path in needed.items()}
        if url:
            store = Store(url)
            store.require_answer()
            store.put_if(f".doctor-{token}-{secrets.token_hex(4)}", token.encode())
            store.delete(name for name in store.list_folder()[0] if name.startswith(f".doctor-{token}"))
    except UserError as error:
        why = str(error)
    found = answer(question, token, reply, {name: str(path) for name, path in needed.items()} if not why else {})
    return found | ({"store": why, "read": True, "not_written": ""} if url or why else {})


def answer(question: str, token: str, reply: str, needed: Mapping[str, str]) -> dict[str, Any]:
    """Run on a node: read the file that the driver wrote, write one for the driver, and look for the needed files.

    Args:
        question: File that the driver wrote.
        token: Content that the file should have.
        reply: File to write.
        needed: Files that should be there, by config key or corpus.

    Returns:
        "read": whether `question` was read; "not_written": why `reply` could not be written, or ""; "missing": the
        needed files that are not there.
    """
    try:
        read = Path(question).read_text(encoding="utf-8") == token
    except OSError:
        read = False
    why = ""
    try:
        Path(reply).write_text(token, encoding="utf-8")
    except OSError as error:
        why = error.strerror or type(error).__name__
    missing = [f"{name} ({path})" for name, path in needed.items() if not Path(path).exists()]
    return {"read": read, "not_written": why, "missing": missing}


def _written(reply: Path, token: str) -> bool:
    try:
        return reply.read_text(encoding="utf-8") == token
    except OSError:
        return False


def judge(where: str, found: Mapping[str, Any], arrived: bool, workspace: Path) -> Iterator[Finding]:
    """Turn the answer of a node into findings.

    Args:
        where: Name of the node, for findings.
        found: What `answer` returned there.
        arrived: Whether the file of the node can be read here.
        workspace: The workspace.
    """
    mend = "put the workspace into a store, or on a file system that all nodes mount at this path (--workspace)"
    if found.get("store"):
        yield Finding("error", where, f"cannot use the store: {found['store']}", "give every node the credentials")
    elif not found["read"]:
        yield Finding("error", where, f"does not see what was written here into {workspace}", mend)
    elif found["not_written"]:
        text = f"cannot write into {workspace}: {found['not_written']}"
        yield Finding("error", where, text, "mend the mount's rights")
    elif not arrived:
        yield Finding("error", where, f"wrote into {workspace} what cannot be seen here", mend)
    for name in found["missing"]:
        yield Finding("error", where, f"does not see the {name}", "mount it at the same path on every node")
