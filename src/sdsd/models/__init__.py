"""Who answers: every kind of model server, and what keeps it busy and unharmed."""
