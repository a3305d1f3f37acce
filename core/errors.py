"""The product's exceptions. Each dialect renders them in its own shape."""


class Mem0dashError(Exception):
    """The base of all errors that callers see.

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
    """The caller sent invalid input."""

    status = 400
    code = "invalid_input"


class NotUnderstoodError(InvalidInputError):
    """A filter or option is not understood that would have narrowed what is shown or deleted."""


class NotAuthenticatedError(Mem0dashError):
    """No credential was sent."""

    status = 401
    code = "not_authenticated"


class InvalidCredentialError(Mem0dashError):
    """The credential is not valid."""

    status = 401
    code = "invalid_credential"


class PermissionDeniedError(Mem0dashError):
    """The credential is valid, but does not allow this."""

    status = 403
    code = "permission_denied"


class NotFoundError(Mem0dashError):
    """There is no such thing in the caller's project. A thing of another project gets the same
    error."""

    status = 404
    code = "not_found"


class ConflictError(Mem0dashError):
    """The thing changed meanwhile, or exists already."""

    status = 409
    code = "conflict"


class NotConfiguredError(ConflictError):
    """The request needs a provider, and none is configured. Nothing has failed."""

    code = "provider_not_configured"


class EngineError(Mem0dashError):
    """A part behind the service failed: a provider, the database or the index."""

    status = 502
    code = "unknown"


class StorageError(EngineError):
    """A disk of this server accepts no more writes. Reads and deletes still work."""

    status = 507
    code = "storage_unavailable"


class DiskFullError(StorageError):
    """Too little space is left to store anything; the message has the figure."""

    code = "disk_full"


class ReadOnlyError(StorageError):
    """The file system, the folder or the database can only be read."""

    code = "read_only"


class DatastoreUnavailableError(EngineError):
    """The database does not answer."""

    code = "datastore_unavailable"


class DatastoreBusyError(DatastoreUnavailableError):
    """Somebody else holds the database's write lock. Reads still work."""

    status = 503
    code = "datastore_busy"


class DatastoreSilentError(DatastoreUnavailableError):
    """The database's server accepts connections but does not answer."""

    status = 503


class DatastoreLostError(DatastoreUnavailableError):
    """The file of the database was moved or deleted while open; writes would be lost."""

    status = 503
    code = "datastore_lost"


class IndexUnavailableError(EngineError):
    """The vector index does not answer."""

    code = "vector_store_unavailable"


class IndexInUseError(IndexUnavailableError):
    """Another process has the embedded index."""


class IndexPausedError(IndexUnavailableError):
    """The index is intact but cannot be written now: the disk is full or read-only."""


class IndexDamagedError(IndexUnavailableError):
    """The files of the index are damaged. It has to be rebuilt from SQL."""


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
