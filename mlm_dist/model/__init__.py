"""The model: building it, attention, dropout, packed rows, loss and compilation."""
