"""From finished runs to the figures and tables of Lester et al. (2021): gathered, averaged, drawn beside theirs."""
