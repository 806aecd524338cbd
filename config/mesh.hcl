# The policy of the mesh: who may call whom, who may start work, and how far it may spread. Its specification is
# docs/call-chains.md. A workload reads it from the file that its Mesh is given and takes a changed file within seconds;
# a file with any error is refused whole, and the last good policy stays.
#
# What no rule allows is refused. Patterns match whole segments of a SPIFFE ID: `*` is one segment, `**` at the end is
# one or more; the trust domain is always written out.

# What rules have that do not say otherwise.
defaults {
  # The longest chain: 5 calls in a row, by 6 workloads. At most 16.
  max_hops = 5

  # How often one workload may call another: tokens a second, and how many may be saved up.
  rate = "50/s burst 100"
}

# Who may start work of its own accord. Everybody else only calls while it answers a call, and has to name it.
originate "planner starts work" {
  workloads = ["spiffe://ai-agents.org/planner"]

  # New chains of one originator. Required: a loop that loses its chain comes back as new ones.
  new_chains = "1/s burst 10"

  # All calls of one chain together, however they branch, and how long it may live.
  budget   = 256
  deadline = "5m"
}

# A task may go on from planner to coders, from coders to the reviewer, from the reviewer to the planner. Each of these
# edges is allowed: it is the chain that keeps a task from going round for ever.
allow "planner gives tasks to coders" {
  from = ["spiffe://ai-agents.org/planner"]
  to   = ["spiffe://ai-agents.org/coder/*"]

  # "METHOD /path"; one that starts with a slash is a gRPC method, that is, POST.
  actions = ["POST /tasks", "/tasks.v1.Tasks/*"]

  # Narrower than the defaults.
  rate     = "10/s burst 20"
  max_hops = 3
}

allow "coders ask the reviewer" {
  from    = ["spiffe://ai-agents.org/coder/*"]
  to      = ["spiffe://ai-agents.org/reviewer"]
  actions = ["POST /reviews", "/reviews.v1.Reviews/*"]

  # Within one chain, at most this often on this edge.
  calls_per_chain = 16
}

allow "reviewer reports to the planner" {
  from    = ["spiffe://ai-agents.org/reviewer"]
  to      = ["spiffe://ai-agents.org/planner"]
  actions = ["POST /tasks/*/findings"]

  # The planner may stand in the chain once before: without this line it would be a cycle.
  reentry = 1

  # Of the caller's remaining calls, none goes to this one: it only records.
  grant = 0
}

# Payments are made only in chains that the planner started and the reviewer has seen.
allow "coders pay for what was reviewed" {
  from        = ["spiffe://ai-agents.org/coder/*"]
  to          = ["spiffe://ai-agents.org/payments"]
  actions     = ["POST /payments"]
  originators = ["spiffe://ai-agents.org/planner"]
  require_via = ["spiffe://ai-agents.org/reviewer"]
}

# A deny outweighs every allow.
deny "nothing that passed the scraper reaches payments" {
  to          = ["spiffe://ai-agents.org/payments"]
  deny_if_via = ["spiffe://ai-agents.org/scraper"]
}
