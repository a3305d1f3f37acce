"""What the next release of django-oauth-toolkit moves, or calls private: imported here alone.

Version 4.0 drops the old places of these modules; oauth/tests/test_library.py notices.
"""

from oauth2_provider.cimd import CIMDError, SafeMetadataFetcher
from oauth2_provider.oauth2_backends import OAuthLibCore
from oauth2_provider.oauth2_backends import _add_iss_to_redirect as add_issuer
from oauth2_provider.oauth2_backends import get_oauthlib_core as get_server

__all__ = ["CIMDError", "OAuthLibCore", "SafeMetadataFetcher", "add_issuer", "get_server"]
