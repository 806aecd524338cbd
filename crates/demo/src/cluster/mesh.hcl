# The mesh policy of the demo. A workload takes a changed file within seconds; one with an error is refused whole, with
# line and column in the workload's log, and the last good one stays.

defaults {
  max_hops = 5
}

# The only one who may start work.
originate "the planner starts work" {
  workloads  = ["spiffe://ai-agents.org/planner"]
  new_chains = "2/s burst 10"
  budget     = 256
  deadline   = "2m"
}

# planner -> coder -> reviewer -> planner: each edge is allowed. It is the chain that keeps a task from going round.
allow "the planner gives tasks to the coder" {
  from    = ["spiffe://ai-agents.org/planner"]
  to      = ["spiffe://ai-agents.org/coder"]
  actions = ["POST /tasks", "POST /drafts"]
}

allow "the coder asks for reviews" {
  from    = ["spiffe://ai-agents.org/coder"]
  to      = ["spiffe://ai-agents.org/reviewer"]
  actions = ["POST /reviews"]
}

allow "the reviewer hands findings to the planner" {
  from    = ["spiffe://ai-agents.org/reviewer"]
  to      = ["spiffe://ai-agents.org/planner"]
  actions = ["POST /findings"]
}

# Small questions, which lead to no further calls: the callee is granted none.
allow "the coder has drafts checked" {
  from            = ["spiffe://ai-agents.org/coder"]
  to              = ["spiffe://ai-agents.org/reviewer"]
  actions         = ["POST /checks"]
  rate            = "10/s burst 20"
  calls_per_chain = 200
  grant           = 0
}

allow "the planner asks whether the coder is there" {
  from    = ["spiffe://ai-agents.org/planner"]
  to      = ["spiffe://ai-agents.org/coder"]
  actions = ["POST /ping"]
  grant   = 0
}
