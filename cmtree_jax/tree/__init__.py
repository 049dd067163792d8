"""The cluster-mixture tree: a soft partition by learned angles, and its mixture."""
