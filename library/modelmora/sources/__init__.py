"""Where models come from: a URI is parsed, its files brought here, every file hashed and held against its pin.

    package://package/folder    files inside an installed Python package (which is not executed)
    file:///folder              a folder of this machine; in a pod, of its image or of a volume mounted there
    pvc://claim/folder          a folder on a PersistentVolumeClaim, which is mounted into the pod
    hf://org/name@revision      a model of the Hugging Face Hub, kept in the cache folder

Nothing here knows torch: what the files mean is the engine's business.
"""

from modelmora.sources.fetching import Fetched, FetchOptions, fetch
from modelmora.sources.integrity import Pins
from modelmora.sources.uris import ClaimSource, FileSource, HubSource, PackageSource, Source, default_model_id, parse

__all__ = [
    "ClaimSource",
    "FetchOptions",
    "Fetched",
    "FileSource",
    "HubSource",
    "PackageSource",
    "Pins",
    "Source",
    "default_model_id",
    "fetch",
    "parse",
]
