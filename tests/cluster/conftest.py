"""What every test on a cluster may ask for."""

from tests.support.cluster import kubectl, namespace
from tests.support.helm import helm
from tests.support.images import images
from tests.support.installation import front, installation, models

__all__ = ["front", "helm", "images", "installation", "kubectl", "models", "namespace"]
