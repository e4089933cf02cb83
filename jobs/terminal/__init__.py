"""What people see on a terminal, and how they stop what runs there."""
