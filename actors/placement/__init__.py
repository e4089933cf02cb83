"""Who sits where: what the cluster has, what the processes need, and how they are seated."""
