"""Reading what MLS clients hand to their servers (RFC 9420). Pure: servers never hold MLS secrets, they only look.

:mod:`~lmatrix.mls.wire` reads RFC 9420's presentation language, :mod:`~lmatrix.mls.credentials` the device credential
that the I-D defines, :mod:`~lmatrix.mls.key_packages` a ``KeyPackage``, and :mod:`~lmatrix.mls.signatures` checks the
signatures in them.
"""
