"""The cost model: step time, memory and traffic of one worker layout."""
