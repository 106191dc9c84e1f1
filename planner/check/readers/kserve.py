"""Reads LLMInferenceServices (`serving.kserve.io`)."""

from __future__ import annotations

from planner.check.folder import Folder
from planner.check.instance import Fleet, Instance, Seat
from planner.check.node import Node
from planner.check.place import Fact
from planner.check.readers.kubernetes import manifest_files, read_manifests
from planner.check.readers.pods import Manifests, Pod, check_same_nodes
from planner.check.rules.memory import model_name
from specs.plan import Role

RULE = "kserve"
KIND = "LLMInferenceService"
SERVICE_PORT = 8000
BEHIND_PROXY = 8001
"""Where the engine listens in decode pods of P/D, whose routing sidecar has the service port."""
MAX_NODES = 1000


def recognises(folder: Folder) -> bool:
    """Whether the folder holds an inference service."""
    return bool(manifest_files(folder, lambda document: document.text("kind") == KIND))


def read(folder: Folder) -> Fleet:
    """The instances of all services."""
    fleet = Fleet(formats={"kserve"})
    for name in manifest_files(folder, lambda document: document.text("kind") == KIND):
        manifests = read_manifests(folder, [name])
        for service in manifests.of_kind(KIND):
            fleet.instances += _Service(service, manifests).instances()
        manifests.check_maps()
    return fleet


class _Service:
    def __init__(self, service: Node, manifests: Manifests) -> None:
        self.service = service
        self.manifests = manifests
        self.findings = manifests.findings
        self.name = service.text("metadata", "name") or ""

    def instances(self) -> list[Instance]:
        spec = self.service.get("spec")
        if spec is None:
            return []
        prefill = spec.get("prefill")
        found = [self._instance(spec, Role.DECODE if prefill is not None else None, proxied=prefill is not None)]
        if prefill is not None:
            found.append(self._instance(prefill, Role.PREFILL, proxied=False))
        instances = [instance for instance in found if instance is not None]
        self._check_model(spec, instances)
        router = spec.get("router")
        if router is None or router.plain != {"route": {}, "gateway": {}, "scheduler": {}}:
            place = router.place if router is not None else spec.place
            self.findings.wrong(
                RULE, place, "must ask for a route, a gateway and a scheduler of their defaults", "router"
            )
        initializer = spec.get("storageInitializer", "enabled")
        if initializer is None or initializer.value is not False:
            place = initializer.place if initializer is not None else spec.place
            message = "must be off: pods keep models in a volume that they share"
            self.findings.wrong(RULE, place, message, "storageInitializer.enabled")
        return instances

    def _check_model(self, spec: Node, instances: list[Instance]) -> None:
        """The model that the service names is the one that its engines load."""
        for instance in instances:
            loaded = model_name(instance)
            for key, wanted in (("name", loaded), ("uri", f"hf://{loaded}")):
                node = spec.get("model", key)
                if node is None or node.value != wanted:
                    place = node.place if node is not None else spec.place
                    self.findings.wrong(RULE, place, f"must be {wanted}, which the engine loads", f"model.{key}")

    def _instance(self, workload: Node, role: Role | None, *, proxied: bool) -> Instance | None:
        copies_node = workload.get("replicas")
        copies = copies_node.value if copies_node is not None else 1
        if type(copies) is not int or not 0 <= copies <= 10**6:
            return None
        nodes = self._nodes(workload)
        template, worker = workload.get("template"), workload.get("worker")
        if template is None or not 1 <= nodes <= MAX_NODES:
            self.findings.wrong(RULE, workload.place, "must have a template and a whole number of pods per replica")
            return None
        if (worker is not None) != (nodes > 1):
            place = worker.place if worker is not None else template.place
            message = f"replicas have {nodes} pods each: " + (
                "a worker goes with several" if worker else "lacks a worker"
            )
            self.findings.wrong(RULE, place, message, "worker")
            if worker is None:
                return None
        seats: list[Seat] = []
        for rank in range(nodes):
            seat = self._seat(template if rank == 0 or worker is None else worker, rank, nodes, proxied=proxied)
            if seat is None:
                return None
            seats.append(seat)
        leader = seats[0].process
        if role is None:
            role = Role.MIXED
            if leader is not None and leader.arguments.argument("kv_transfer_config") is not None:
                role = Role.DECODE
        self._check_degrees(workload, seats)
        pod = self._pod(template, several=nodes > 1)
        second = self._pod(worker, several=True) if worker is not None else None
        if pod is not None and second is not None:
            check_same_nodes((pod.gpu, pod.pool), [(second.gpu, second.pool)], self.findings)
        component = f"{self.name}-{role.value}"
        return Instance(
            name=component,
            component=component,
            seats=tuple(seats),
            copies=Fact(copies, copies_node.place if copies_node is not None else workload.place),
            place=template.place,
            pool=pod.pool if pod is not None else None,
            service=Fact(self.name, template.place),
            role=Fact(role, template.place),
            gpu=pod.gpu if pod is not None else None,
            routed=True,
        )

    def _nodes(self, workload: Node) -> int:
        """Pods of a replica: data / dataLocal, else as many as there are pipeline stages."""
        data, local = workload.whole("parallelism", "data"), workload.whole("parallelism", "dataLocal")
        if data is not None:
            if not local or data % local:
                place = workload.fields["parallelism"].place
                self.findings.wrong(RULE, place, "dataLocal must divide data", "parallelism.dataLocal")
                return 0
            return data // local
        return workload.whole("parallelism", "pipeline") or 1 if workload.get("worker") is not None else 1

    def _pod(self, template: Node, *, several: bool) -> Pod | None:
        containers = template.get("containers")
        if containers is None or len(containers.items) != 1 or containers.items[0].text("name") != "main":
            self.findings.wrong(RULE, template.place, "must have one container: main", "containers")
            return None
        return Pod(template, containers.items[0], self.manifests, several=several)

    def _seat(self, template: Node, rank: int, nodes: int, *, proxied: bool) -> Seat | None:
        pod = self._pod(template, several=nodes > 1)
        script = pod.script() if pod is not None else None
        if pod is None or script is None:
            return None
        process = pod.process(script, rank)
        leads = rank == 0
        wanted = {} if leads else {"LEADER_HOST": "$LWS_LEADER_ADDRESS"}
        if dict(script.finding) != wanted:
            self.findings.wrong(
                RULE, script.place, "workers look for their leader, and leaders for nobody", "LEADER_HOST"
            )
        if rank < 2:
            port = process.arguments.whole("port") if process is not None else None
            expected = BEHIND_PROXY if proxied else SERVICE_PORT
            if process is not None and port != expected:
                message = (
                    f"must be {expected}, where {'the routing sidecar' if proxied else 'the service'} looks for it"
                )
                self.findings.wrong(RULE, process.arguments.place_of("port"), message, "port")
            pod.check(serves=str(port) if leads else None)
            pod.check_ports({"http": port} if leads else {})
            self._check_security(pod)
            if pod.container.get("env") is not None and "HF_HUB_CACHE" not in pod.variables():
                message = "must be set: the presets point it at a volume of the pod's own"
                self.findings.wrong(RULE, pod.container.fields["env"].place, message, "HF_HUB_CACHE")
        return Seat(pod.gpus, process, host="$POD_IP", leader="$POD_IP" if leads else "$LEADER_HOST")

    def _check_security(self, pod: Pod) -> None:
        """KServe's presets are for images without root, and the engines' public ones have it."""
        context = pod.container.get("securityContext")
        for name in ("runAsNonRoot", "readOnlyRootFilesystem"):
            node = context.get(name) if context is not None else None
            if node is None or node.value is not False:
                place = node.place if node is not None else pod.container.place
                self.findings.wrong(RULE, place, "must be false: the image runs as root", f"securityContext.{name}")
        for name in (context.fields if context is not None else {}).keys() - {
            "capabilities",
            "runAsNonRoot",
            "readOnlyRootFilesystem",
        }:
            self.findings.wrong(RULE, context.fields[name].place, "is no setting that engines need", name)  # type: ignore[union-attr]

    def _check_degrees(self, workload: Node, seats: list[Seat]) -> None:
        """`parallelism` repeats what the command says."""
        process = seats[0].process
        if process is None:
            return
        arguments = process.arguments
        dp = arguments.whole("data_parallel")
        said: dict[str, object] = {
            "tensor": arguments.whole("tensor_parallel") or 1,
            "data": dp,
            "dataLocal": dp // len(seats) if dp is not None else None,
            "pipeline": arguments.whole("pipeline_parallel"),
            "expert": True if arguments.has("expert_parallel") else None,
        }
        degrees = workload.get("parallelism")
        for name, value in said.items():
            node = degrees.get(name) if degrees is not None else None
            if (node.value if node is not None else None) != value:
                place = node.place if node is not None else workload.place
                shown = "left out" if value is None else str(value).lower()
                self.findings.wrong(RULE, place, f"must be {shown}, as the command has it", f"parallelism.{name}")
        for name in (degrees.fields if degrees is not None else {}).keys() - said.keys():
            self.findings.wrong(RULE, degrees.fields[name].place, "is no degree of the command", f"parallelism.{name}")  # type: ignore[union-attr]
