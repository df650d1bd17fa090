"""From measurements to a signed table: estimate, policy, planner, table, publish."""
