"""The product's exceptions: one tree, which every dialect translates into its own shape."""


class Mem0dashError(Exception):
    """Base of all errors that a caller gets to see.

    `status` is the HTTP status, `code` a stable machine word, `message` a sentence for people,
    `retry_after` seconds, where waiting helps.
    """

    status = 500
    code = "internal_error"

    def __init__(self, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after


class InvalidInputError(Mem0dashError):
    """The caller sent something that cannot be worked with."""

    status = 400
    code = "invalid_input"


class NotUnderstoodError(InvalidInputError):
    """Something that would have narrowed what is shown, changed or deleted is not understood."""


class NotAuthenticatedError(Mem0dashError):
    """No credential was sent."""

    status = 401
    code = "not_authenticated"


class InvalidCredentialError(Mem0dashError):
    """A credential was sent, and it does not hold."""

    status = 401
    code = "invalid_credential"


class PermissionDeniedError(Mem0dashError):
    """The credential holds, but does not reach this far."""

    status = 403
    code = "permission_denied"


class NotFoundError(Mem0dashError):
    """No such thing, or none in the caller's project: the two are never told apart."""

    status = 404
    code = "not_found"


class ConflictError(Mem0dashError):
    """The thing changed meanwhile, or exists already."""

    status = 409
    code = "conflict"


class NotConfiguredError(ConflictError):
    """What is asked for needs a provider, and none is chosen: nothing has failed."""

    code = "provider_not_configured"


class EngineError(Mem0dashError):
    """A part behind the service failed: a provider, the database or the index."""

    status = 502
    code = "unknown"


class StorageError(EngineError):
    """A disk of this server takes no more writes. Reading and deleting go on."""

    status = 507
    code = "storage_unavailable"


class DiskFullError(StorageError):
    """Too little room is left to store anything; the message has the figure."""

    code = "disk_full"


class ReadOnlyError(StorageError):
    """The file system, the folder or the database can only be read."""

    code = "read_only"


class DatastoreUnavailableError(EngineError):
    """The database does not answer."""

    code = "datastore_unavailable"


class DatastoreBusyError(DatastoreUnavailableError):
    """Somebody else holds the database's write lock; reads go on."""

    status = 503
    code = "datastore_busy"


class DatastoreSilentError(DatastoreUnavailableError):
    """The database's server takes connections and does not answer."""

    status = 503


class DatastoreLostError(DatastoreUnavailableError):
    """The file of the database is no longer where it was opened: what is written would be lost."""

    status = 503
    code = "datastore_lost"


class IndexUnavailableError(EngineError):
    """The vector index does not answer."""

    code = "vector_store_unavailable"


class IndexInUseError(IndexUnavailableError):
    """Another process has the embedded index."""


class IndexPausedError(IndexUnavailableError):
    """The index is sound and takes no writes now: the disk is full, or can only be read."""


class IndexDamagedError(IndexUnavailableError):
    """The files of the index are not what they were: it has to be built again from SQL."""


class ProviderError(EngineError):
    """The embedder or the LLM failed or answered with something unusable.

    `cause` is what the provider said, for those who look after it: never shown to other callers.
    """

    code = "provider_unavailable"

    def __init__(
        self, message: str, *, code: str = "", cause: str = "", retry_after: int | None = None
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.code = code or type(self).code
        self.cause = cause
