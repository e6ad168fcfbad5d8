"""The words by which operator, router and people find our objects in a cluster."""

from typing import Final

from modelmora.spec.schema import API_GROUP

MANAGER: Final = "modelmora-operator"  # field manager of what the operator writes

COMPONENT: Final = f"{API_GROUP}/component"  # label: which part of ModelMora this is
WORKER: Final = "worker"
ROUTER_DEMAND: Final = "router-demand"

DEPLOYMENT: Final = f"{API_GROUP}/deployment"  # label: metadata.name of the ModelDeployment
SPEC_HASH: Final = f"{API_GROUP}/spec-hash"  # label: of the spec that a worker was made from
MODEL: Final = f"{API_GROUP}/model"  # annotation, for people: id@version
WORKER_SETTINGS: Final = f"{API_GROUP}/worker-settings"  # annotation: JSON, mounted into the worker
DEMAND: Final = f"{API_GROUP}/demand"  # annotation of a router's Lease: JSON
TRIPS: Final = f"{API_GROUP}/trips"  # another: the backends that it rolled back, while there are some to tell of

WORKER_CONTAINER: Final = "worker"
CALL_PORT: Final = 9100  # WorkerService
HEALTH_PORT: Final = 9101  # grpc.health.v1, bound before any library is imported
LIVENESS_SERVICE: Final = "live"  # asked of grpc.health.v1: whether the process lives, not whether the model serves
