"""A conformance suite for Linearized Matrix servers, written against the Internet-Draft and not against lmatrix.

It speaks raw signed HTTP to a running server, the *target*, and answers it: as a server of its own whose users are in
the target's rooms, and as the hub of rooms that users of the target are in. Nothing of lmatrix is imported by anything
but its trial tests, so that it can be pointed at any implementation::

    python -m tests.conformance --target https://127.0.0.1:8448 --server-name localhost:8448 --insecure \
        --client http://127.0.0.1:8008

``requirements/`` lists what the I-D asks for, section by section; ``cases/`` holds the cases, each of which names the
requirements that it proves.
"""
