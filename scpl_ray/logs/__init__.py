"""What a pipeline logged, measured without its model: who asked, what was kept, how groups were served."""
