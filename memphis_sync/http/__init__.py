"""
HTTP: a gateway with Memphis' REST protocol (extra ``gateway``), a client for it, and a page to look at stations.

Nothing here is needed by the rest of the package, and each part imports its libraries when it is used.
"""
