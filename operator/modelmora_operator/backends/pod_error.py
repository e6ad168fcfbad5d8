"""Why no pod can be made of a deployment."""


class PodError(Exception):
    """No pod can be made of the deployment; `reason` as in conditions."""

    def __init__(self, reason: str, message: str, remedy: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.remedy = remedy
