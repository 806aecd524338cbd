# The entries that there should be, for `countersign-server entry apply -f entries.hcl`.
#
# A run makes what is missing, changes what differs and shows the difference; a second run finds nothing to do. -dryRun
# only shows. The fields have the names of SPIRE's entry API. The JSON files of `entry create -data` are taken too.

# Optional. What this command makes gets an ID that begins with this name and a dot, and with -prune those that are not
# in the file any more are deleted. Entries of other sets, or made by hand, are never deleted.
set = "agents"

# An ID for all nodes of the join-token attestor that have this selector: a node alias, below the server's own ID.
# entry {
#     spiffe_id = "spiffe://example.org/builders"
#     parent_id = "spiffe://example.org/spire/server"
#     selectors = ["x509pop:subject:cn:builder"]
# }

entry {
    # The workload's ID, and whose workload it is: a node's ID, a node alias's, or another workload's. Required.
    spiffe_id = "spiffe://example.org/planner"
    parent_id = "spiffe://example.org/node1"
    # All of these must hold. Required. `{ type = "unix", value = "uid:1000" }` says the same as "unix:uid:1000".
    selectors = ["unix:uid:1000", "unix:path:/usr/bin/planner"]
}

entry {
    spiffe_id = "spiffe://example.org/coder"
    parent_id = "spiffe://example.org/node1"
    selectors = ["unix:uid:1001"]

    # Everything else may be left out. An ID of its own; otherwise one is made from the set, or by the server.
    id = "coder"
    # Seconds; 0 is the server's default.
    x509_svid_ttl = 3600
    jwt_svid_ttl = 300
    # DNS names of the certificate; the first is also its common name.
    dns_names = ["coder.example.org"]
    # Trust domains whose bundles the workload gets too; the server must have them.
    federates_with = []
    # Tells a workload with several SVIDs what this one is for.
    hint = "internal"
    # When the entry is removed, in seconds since 1970; 0 is never.
    expires_at = 0
    # Whether the workload may do what administrators do, is a server below this one, has its SVID stored elsewhere.
    admin = false
    downstream = false
    store_svid = false
    additional_attributes {
        disable_x509_svid_prefetch = false
        jwt_svid_include_jti = false
    }
}
